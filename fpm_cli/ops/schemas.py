"""The raw operators `torch.ops.fpm.*`: their schemas and output shapes, for the CPU and CUDA alike.

Compiled libraries (`kernels/*/cpu_register.cpp` and their CUDA counterparts) add implementations. Each
backward is an operator of its own; autograd is joined on in `fpm_cli/ops/`, by functions that may span some.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_DROPOUT = "float dropout, int seed, int stream"
_ATTENTION_INPUTS = """
    Tensor query, Tensor key, Tensor value,
    Tensor? bias, Tensor? key_mask, Tensor? documents, Tensor? cu_seqlens
"""
# `attention_backward` writes into tensors of the caller's, which may be views of one buffer for the packed
# projection; the gradient of the bias is added to what is there: layers that share one share its gradient.
SCHEMAS = f"""
dropout(Tensor x, float probability, int seed, int stream) -> Tensor

residual_norm(
    Tensor x, Tensor y, Tensor? bias, Tensor weight, Tensor? norm_bias, float alpha, {_DROPOUT},
    float eps, bool rms
) -> (Tensor sum, Tensor normed, Tensor stats)

residual_norm_backward(
    Tensor? grad_sum, Tensor grad_normed, Tensor sum, Tensor stats, Tensor weight, float alpha, {_DROPOUT},
    bool rms, bool has_bias, bool has_norm_bias
) -> (Tensor grad_x, Tensor grad_y, Tensor grad_bias, Tensor grad_weight, Tensor grad_norm_bias)

norm(Tensor x, Tensor weight, Tensor? norm_bias, float eps, bool rms) -> (Tensor normed, Tensor stats)

norm_backward(
    Tensor? grad_sum, Tensor grad_normed, Tensor x, Tensor stats, Tensor weight, bool rms, bool has_norm_bias
) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_norm_bias)

residual(Tensor x, Tensor y, Tensor? bias, {_DROPOUT}) -> Tensor

residual_backward(Tensor grad_sum, {_DROPOUT}, bool has_bias) -> (Tensor grad_y, Tensor grad_bias)

bias_gelu(Tensor x, Tensor? bias, bool tanh) -> Tensor

bias_gelu_backward(Tensor grad, Tensor x, Tensor? bias, bool tanh) -> (Tensor grad_x, Tensor grad_bias)

gated_gelu(Tensor gate, Tensor up, bool tanh) -> Tensor

gated_gelu_backward(Tensor grad, Tensor gate, Tensor up, bool tanh) -> (Tensor grad_gate, Tensor grad_up)

linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor

linear_input_grad(Tensor grad, Tensor weight, Tensor? added) -> Tensor

linear_weight_grad(Tensor grad, Tensor x) -> Tensor

attention({_ATTENTION_INPUTS}, bool causal, float scale, {_DROPOUT}) -> (Tensor out, Tensor log_sum_exp)

attention_backward(
    Tensor grad_out, {_ATTENTION_INPUTS}, Tensor out, Tensor log_sum_exp,
    bool causal, float scale, {_DROPOUT},
    Tensor(a!) grad_query, Tensor(b!) grad_key, Tensor(c!) grad_value, Tensor(d!)? grad_bias
) -> ()
"""
for schema in SCHEMAS.strip().split("\n\n"):
    operator, signature = " ".join(schema.split()).split("(", maxsplit=1)
    torch.library.define(f"fpm::{operator}", f"({signature}")


def _dropout(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


def _residual_norm(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.numel() // max(1, x.shape[-1])
    return torch.empty_like(x), torch.empty_like(x), x.new_empty((rows, 2), dtype=torch.float32)


def _residual_norm_backward(
    grad_sum: Tensor | None, grad_normed: Tensor, sum: Tensor, stats: Tensor, weight: Tensor, *rest: object
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *_, has_bias, has_norm_bias = rest
    bias, scale, norm_bias = (
        weight.new_empty(weight.shape[0] if wanted else 0) for wanted in (has_bias, True, has_norm_bias)
    )
    return torch.empty_like(sum), torch.empty_like(sum), bias, scale, norm_bias


def _norm(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    rows = x.numel() // max(1, x.shape[-1])
    return torch.empty_like(x), x.new_empty((rows, 2), dtype=torch.float32)


def _norm_backward(
    grad_sum: Tensor | None,
    grad_normed: Tensor,
    x: Tensor,
    stats: Tensor,
    weight: Tensor,
    rms: bool,
    has_norm_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    norm_bias = weight.new_empty(weight.shape[0] if has_norm_bias else 0)
    return torch.empty_like(x), torch.empty_like(weight), norm_bias


def _residual(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


def _residual_backward(
    grad_sum: Tensor, dropout: float, seed: int, stream: int, has_bias: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(grad_sum), grad_sum.new_empty(grad_sum.shape[-1] if has_bias else 0)


def _bias_gelu(x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    return torch.empty_like(x)


def _bias_gelu_backward(grad: Tensor, x: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0 if bias is None else bias.shape[0])


def _gated_gelu(gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
    return torch.empty_like(gate)


def _gated_gelu_backward(grad: Tensor, gate: Tensor, up: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gate), torch.empty_like(gate)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _linear_input_grad(grad: Tensor, weight: Tensor, added: Tensor | None) -> Tensor:
    return grad.new_empty(grad.shape[0], weight.shape[1])


def _linear_weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[1], x.shape[1])


def _attention(query: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    *batch, queries, heads, _head_size = query.shape
    return query.new_empty(query.shape), query.new_empty((*batch, heads, queries), dtype=torch.float32)


def _attention_backward(*_: object) -> None:
    return None


for name, fake in (
    ("dropout", _dropout),
    ("residual_norm", _residual_norm),
    ("residual_norm_backward", _residual_norm_backward),
    ("norm", _norm),
    ("norm_backward", _norm_backward),
    ("residual", _residual),
    ("residual_backward", _residual_backward),
    ("bias_gelu", _bias_gelu),
    ("bias_gelu_backward", _bias_gelu_backward),
    ("gated_gelu", _gated_gelu),
    ("gated_gelu_backward", _gated_gelu_backward),
    ("linear", _linear),
    ("linear_input_grad", _linear_input_grad),
    ("linear_weight_grad", _linear_weight_grad),
    ("attention", _attention),
    ("attention_backward", _attention_backward),
):
    torch.library.register_fake(f"fpm::{name}", fake)

RawOperator = Callable[..., Any]
DROPOUT: RawOperator = torch.ops.fpm.dropout.default
RESIDUAL: RawOperator = torch.ops.fpm.residual.default
RESIDUAL_BACKWARD: RawOperator = torch.ops.fpm.residual_backward.default
NORM: RawOperator = torch.ops.fpm.norm.default
NORM_BACKWARD: RawOperator = torch.ops.fpm.norm_backward.default
RESIDUAL_NORM: RawOperator = torch.ops.fpm.residual_norm.default
RESIDUAL_NORM_BACKWARD: RawOperator = torch.ops.fpm.residual_norm_backward.default
BIAS_GELU: RawOperator = torch.ops.fpm.bias_gelu.default
BIAS_GELU_BACKWARD: RawOperator = torch.ops.fpm.bias_gelu_backward.default
GATED_GELU: RawOperator = torch.ops.fpm.gated_gelu.default
GATED_GELU_BACKWARD: RawOperator = torch.ops.fpm.gated_gelu_backward.default
ATTENTION: RawOperator = torch.ops.fpm.attention.default
ATTENTION_BACKWARD: RawOperator = torch.ops.fpm.attention_backward.default
LINEAR: RawOperator = torch.ops.fpm.linear.default
LINEAR_INPUT_GRAD: RawOperator = torch.ops.fpm.linear_input_grad.default
LINEAR_WEIGHT_GRAD: RawOperator = torch.ops.fpm.linear_weight_grad.default
