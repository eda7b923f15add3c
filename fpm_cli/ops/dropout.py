"""Dropout by counted random numbers: (seed, stream, element index) alone decide what is dropped.

So forward, backward and a recomputed forward drop the same elements without keeping a mask, whatever the
number of threads, and whether compiled or reference operators run. See `kernels/common/philox.h`.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from fpm_cli.kernels.dropout import reference
from fpm_cli.ops.once_differentiable import once_differentiable
from fpm_cli.ops.schemas import DROPOUT
from fpm_cli.ops.selection import is_compiled

SITES_PER_LAYER = 8


class DropoutSite(IntEnum):
    """Where in a layer dropout occurs, as in `kernels/common/philox.h`."""

    EMBEDDING = 0
    ATTENTION_PROBABILITIES = 1
    ATTENTION_RESIDUAL = 2
    CROSS_ATTENTION_PROBABILITIES = 3
    CROSS_ATTENTION_RESIDUAL = 4
    MLP_RESIDUAL = 5


@dataclass(frozen=True, slots=True)
class Dropout:
    """One dropout of one step.

    Args:
        probability: of dropping an element, 0 <= probability < 1; what is kept is divided by 1 - probability.
        seed: of the step and rank, 0 <= seed < 2^63.
        stream: which dropout of the network, see `dropout_stream`.
    """

    probability: float = 0.0
    seed: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise ValueError(f"dropout probability {self.probability}: expected 0 <= probability < 1")


NO_DROPOUT = Dropout()


def dropout_stream(layer: int, site: DropoutSite) -> int:
    """The number of a dropout; `layer` counts the encoder's layers from 0, then the decoder's."""
    return layer * SITES_PER_LAYER + site


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        ctx.dropout = dropout
        return _drop(x, dropout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _drop(grad, ctx.dropout), None


def _drop(x: Tensor, dropout: Dropout) -> Tensor:
    dropped: Tensor = DROPOUT(x.contiguous(), dropout.probability, dropout.seed, dropout.stream)
    return dropped


def dropout(x: Tensor, dropout: Dropout) -> Tensor:
    """Zeros where dropped, x / (1 - probability) elsewhere; any shape, the same shape back."""
    if dropout.probability == 0:
        return x
    if is_compiled(x):
        dropped: Tensor = _Dropout.apply(x, dropout)
        return dropped
    return reference.dropout(x, dropout.probability, dropout.seed, dropout.stream)
