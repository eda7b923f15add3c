"""GELU of x + bias, and GELU of a gate times another branch: see `kernels/bias_gelu/README.md`."""

from typing import Any

import torch
from torch import Tensor

from fpm_cli.kernels.bias_gelu import reference
from fpm_cli.ops.once_differentiable import once_differentiable
from fpm_cli.ops.schemas import BIAS_GELU, BIAS_GELU_BACKWARD, GATED_GELU, GATED_GELU_BACKWARD
from fpm_cli.ops.selection import is_compiled


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, bias)
        ctx.tanh = tanh
        return BIAS_GELU(x, bias, tanh)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, bias = ctx.saved_tensors
        grad_x, grad_bias = BIAS_GELU_BACKWARD(grad.contiguous(), x, bias, ctx.tanh)
        return grad_x, None if bias is None else grad_bias, None


class _GatedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.tanh = tanh
        return GATED_GELU(gate, up, tanh)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = GATED_GELU_BACKWARD(grad.contiguous(), gate, up, ctx.tanh)
        return grad_gate, grad_up, None


def bias_gelu(x: Tensor, bias: Tensor | None, *, tanh: bool) -> Tensor:
    """GELU of x + bias.

    Args:
        x: (..., F).
        bias: (F,), or None.
        tanh: GELU's tanh approximation, as GPT-2 and T5 v1.1 have it, instead of the erf form.

    Returns:
        (..., F).
    """
    if is_compiled(x):
        y: Tensor = _BiasGelu.apply(x, bias, tanh)
        return y
    return reference.bias_gelu(x, bias, tanh)


def gated_gelu(gate: Tensor, up: Tensor, *, tanh: bool) -> Tensor:
    """GELU(gate) * up (Shazeer, arXiv 2002.05202), of any one shape; `tanh` as for `bias_gelu`."""
    if is_compiled(gate):
        y: Tensor = _GatedGelu.apply(gate, up, tanh)
        return y
    return reference.gated_gelu(gate, up, tanh)
