"""Where the layers of the three families differ."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LayerConfig:
    """The parts of a transformer layer that a family chooses; sizes are in `ModelConfig`."""

    use_bias: bool  # biases on every linear layer
    gated_mlp: bool  # an MLP of three matrices instead of two
    rms_norm: bool  # RMSNorm (weight only) instead of LayerNorm
    activation: Callable[[Tensor], Tensor]
    softmax_scale: float  # multiplies the attention scores
    deepnorm_alpha: float  # DeepNorm's weight of the skip connection (arXiv 2203.00555, table 2)
    deepnorm_beta: float  # DeepNorm's gain of values, outputs and MLP at initialisation
    cross_attention: bool = False  # attention over the encoder's output after self-attention


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 and T5 v1.1 have it."""
    return F.gelu(x, approximate="tanh")
