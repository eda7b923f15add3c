"""Small networks with random weights, and their comparison."""

import torch
from torch import Tensor, nn

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig

TOLERANCE = 1e-5


def small(name: str, *assignments: str) -> RunConfig:
    """Odd sizes, so that a transposed or mixed-up dimension cannot hide."""
    sizes = ("model.vocab_size=97", "model.hidden_size=48", "model.num_heads=3", "model.head_size=16")
    return resolve(
        name, proxy=True, environment={}, assignments=[*sizes, "model.ffn_size=112", *assignments]
    ).config


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Norms and biases too, which start at 0 and 1 and would hide a mistake."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max().item() < TOLERANCE
