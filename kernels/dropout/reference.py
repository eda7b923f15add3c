"""Dropout in plain PyTorch, with the masks of the compiled operators."""

import torch
from torch import Tensor

from fpm_cli.kernels.common.philox import dropout_mask


def dropout(x: Tensor, probability: float, seed: int, stream: int) -> Tensor:
    """Zeros where dropped, x / (1 - probability) elsewhere; elements are counted in row-major order."""
    if probability == 0:
        return x
    padded = (x.numel() + 3) // 4 * 4
    elements = torch.arange(padded, device=x.device)
    kept = dropout_mask(elements, probability, seed, stream)[: x.numel()].view(x.shape)
    return torch.where(kept, x * (1 / (1 - probability)), torch.zeros_like(x))
