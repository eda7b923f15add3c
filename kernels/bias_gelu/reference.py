"""`bias_gelu` and `gated_gelu` in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor


def bias_gelu(x: Tensor, bias: Tensor | None, tanh: bool) -> Tensor:
    """GELU of x + bias; see `fpm_cli.ops.gelu`."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh" if tanh else "none")


def gated_gelu(gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
    """GELU of the gate, times `up`."""
    return F.gelu(gate, approximate="tanh" if tanh else "none") * up
