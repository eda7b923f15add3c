"""The optimizer and its groups: AdamW, with weight decay on matrices only."""

import torch
from torch import nn

from fpm_cli.config.schema import TrainConfig


def make_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW whose decay spares biases and norms (the paper, section 4.1), which are the vectors."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    assert len(matrices) + len(vectors) == len(list(model.parameters()))
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": train.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        eps=train.adam_epsilon,
        fused=True,
    )
