"""`residual_norm` in plain PyTorch, with the masks of the compiled operator."""

import torch.nn.functional as F
from torch import Tensor

from fpm_cli.kernels.dropout.reference import dropout


def residual_norm(
    x: Tensor,
    y: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    norm_bias: Tensor | None,
    alpha: float,
    probability: float,
    seed: int,
    stream: int,
    eps: float,
    rms: bool,
) -> tuple[Tensor, Tensor]:
    """alpha x + dropout(y + bias), and its LayerNorm or RMSNorm; see `fpm_cli.ops.residual_norm`."""
    branch = dropout(y if bias is None else y + bias, probability, seed, stream)
    total = x + branch if alpha == 1 else alpha * x + branch
    if rms:
        normed = F.rms_norm(total, weight.shape, weight, eps)
        return total, normed if norm_bias is None else normed + norm_bias
    return total, F.layer_norm(total, weight.shape, weight, norm_bias, eps)
