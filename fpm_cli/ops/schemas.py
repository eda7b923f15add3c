"""The raw operators `torch.ops.fpm.*`: their schemas and output shapes, for the CPU and CUDA alike.

Compiled libraries (`kernels/*/cpu_register.cpp` and their CUDA counterparts) add implementations. Each
backward is an operator of its own; autograd is joined on in `fpm_cli/ops/`, by functions that may span several.
"""

import torch
from torch import Tensor

LIBRARY = torch.library.Library("fpm", "DEF")

DROPOUT = "float dropout, int seed, int stream"
ATTENTION_INPUTS = """
    Tensor query, Tensor key, Tensor value,
    Tensor? bias, Tensor? key_mask, Tensor? documents, Tensor? cu_seqlens
"""
# `attention_backward` writes into tensors of the caller's, which may be views of one buffer for the packed
# projection; the gradient of the bias is added to what is there: layers that share one share its gradient.
SCHEMAS = f"""
residual_norm(
    Tensor x, Tensor y, Tensor? bias, Tensor weight, Tensor? norm_bias, float alpha, {DROPOUT},
    float eps, bool rms
) -> (Tensor sum, Tensor normed, Tensor stats)

residual_norm_backward(
    Tensor? grad_sum, Tensor grad_normed, Tensor sum, Tensor stats, Tensor weight, float alpha, {DROPOUT},
    bool rms, bool has_bias, bool has_norm_bias
) -> (Tensor grad_x, Tensor grad_y, Tensor grad_bias, Tensor grad_weight, Tensor grad_norm_bias)

bias_gelu(Tensor x, Tensor? bias, bool tanh) -> Tensor

bias_gelu_backward(Tensor grad, Tensor x, Tensor? bias, bool tanh) -> (Tensor grad_x, Tensor grad_bias)

gated_gelu(Tensor gate, Tensor up, bool tanh) -> Tensor

gated_gelu_backward(Tensor grad, Tensor gate, Tensor up, bool tanh) -> (Tensor grad_gate, Tensor grad_up)

attention({ATTENTION_INPUTS}, bool causal, float scale, {DROPOUT}) -> (Tensor out, Tensor log_sum_exp)

attention_backward(
    Tensor grad_out, {ATTENTION_INPUTS}, Tensor out, Tensor log_sum_exp, bool causal, float scale, {DROPOUT},
    Tensor(a!) grad_query, Tensor(b!) grad_key, Tensor(c!) grad_value, Tensor(d!)? grad_bias
) -> ()
"""
for schema in SCHEMAS.strip().split("\n\n"):
    LIBRARY.define(" ".join(schema.split()))


@torch.library.register_fake("fpm::residual_norm")
def _residual_norm(
    x: Tensor,
    y: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    norm_bias: Tensor | None,
    alpha: float,
    dropout: float,
    seed: int,
    stream: int,
    eps: float,
    rms: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.numel() // max(1, x.shape[-1])
    return torch.empty_like(x), torch.empty_like(x), x.new_empty((rows, 2), dtype=torch.float32)


@torch.library.register_fake("fpm::residual_norm_backward")
def _residual_norm_backward(
    grad_sum: Tensor | None,
    grad_normed: Tensor,
    sum: Tensor,
    stats: Tensor,
    weight: Tensor,
    alpha: float,
    dropout: float,
    seed: int,
    stream: int,
    rms: bool,
    has_bias: bool,
    has_norm_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    width = weight.shape[0]
    vectors = [weight.new_empty(width if wanted else 0) for wanted in (has_bias, True, has_norm_bias)]
    return torch.empty_like(sum), torch.empty_like(sum), vectors[0], vectors[1], vectors[2]


@torch.library.register_fake("fpm::bias_gelu")
def _bias_gelu(x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("fpm::bias_gelu_backward")
def _bias_gelu_backward(grad: Tensor, x: Tensor, bias: Tensor | None, tanh: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0 if bias is None else bias.shape[0])


@torch.library.register_fake("fpm::gated_gelu")
def _gated_gelu(gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
    return torch.empty_like(gate)


@torch.library.register_fake("fpm::gated_gelu_backward")
def _gated_gelu_backward(grad: Tensor, gate: Tensor, up: Tensor, tanh: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gate), torch.empty_like(gate)


@torch.library.register_fake("fpm::attention")
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    key_mask: Tensor | None,
    documents: Tensor | None,
    cu_seqlens: Tensor | None,
    causal: bool,
    scale: float,
    dropout: float,
    seed: int,
    stream: int,
) -> tuple[Tensor, Tensor]:
    *leading, queries, heads, _ = query.shape
    return query.new_empty(query.shape), query.new_empty((*leading, heads, queries), dtype=torch.float32)


@torch.library.register_fake("fpm::attention_backward")
def _attention_backward(*arguments: object) -> None:
    return None
