"""alpha x + dropout(y + bias), then LayerNorm or RMSNorm: see `kernels/residual_norm/README.md`."""

from typing import Any

import torch
from torch import Tensor

from fpm_cli.kernels.residual_norm import reference
from fpm_cli.ops.dropout import NO_DROPOUT, Dropout
from fpm_cli.ops.once_differentiable import once_differentiable
from fpm_cli.ops.schemas import RESIDUAL_NORM, RESIDUAL_NORM_BACKWARD
from fpm_cli.ops.selection import is_compiled


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        norm_bias: Tensor | None,
        settings: tuple[Any, ...],
    ) -> tuple[Tensor, Tensor]:
        total, normed, stats = RESIDUAL_NORM(
            x.contiguous(), y.contiguous(), bias, weight, norm_bias, *settings
        )
        ctx.save_for_backward(total, stats, weight)
        ctx.settings = settings
        ctx.biases = bias is not None, norm_bias is not None
        ctx.set_materialize_grads(False)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor | None, grad_normed: Tensor | None) -> tuple[Any, ...]:
        total, stats, weight = ctx.saved_tensors
        *forward, _eps, rms = ctx.settings
        grad_normed = torch.zeros_like(total) if grad_normed is None else grad_normed.contiguous()
        grad_total = None if grad_total is None else grad_total.contiguous()
        grad_x, grad_y, grad_bias, grad_weight, grad_norm_bias = RESIDUAL_NORM_BACKWARD(
            grad_total, grad_normed, total, stats, weight, *forward, rms, *ctx.biases
        )
        has_bias, has_norm_bias = ctx.biases
        biases = grad_bias if has_bias else None, grad_norm_bias if has_norm_bias else None
        return grad_x, grad_y, biases[0], grad_weight, biases[1], None


def residual_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    *,
    eps: float,
    bias: Tensor | None = None,
    norm_bias: Tensor | None = None,
    alpha: float = 1.0,
    dropout: Dropout = NO_DROPOUT,
    rms: bool = False,
) -> tuple[Tensor, Tensor]:
    """Add a branch to the residual stream and normalise.

    A pre-norm layer uses both results, a post-norm and a DeepNorm layer the second alone.

    Args:
        x: the residual stream, (..., H).
        y: the branch, of x's shape.
        weight: of the norm, (H,).
        eps: added to the variance.
        bias: added to the branch before dropout, (H,).
        norm_bias: of the norm, (H,).
        alpha: weight of the residual stream (DeepNorm, arXiv 2203.00555).
        dropout: of the branch.
        rms: RMSNorm instead of LayerNorm.

    Returns:
        alpha x + dropout(y + bias), and its norm; both of x's shape.
    """
    settings = alpha, dropout.probability, dropout.seed, dropout.stream, eps, rms
    if is_compiled(x, width=x.shape[-1]):
        both: tuple[Tensor, Tensor] = _ResidualNorm.apply(x, y, bias, weight, norm_bias, settings)
        return both
    return reference.residual_norm(x, y, bias, weight, norm_bias, *settings)
