"""The optimizer and its groups: AdamW, with weight decay on matrices only and, if asked, a learning rate
that falls with depth.

An Adam step changes every weight by about the learning rate whatever the gradient's size, so the 2L
branches of a network of L layers, which add up in one residual stream, change it by 2L aligned steps.
With `train.lr_depth_scaled` the layers learn at lr/sqrt(2L) and their projections into the residual
stream, which also start sqrt(2L) times smaller, at lr/2L, so that one rate suits every depth (Yang et
al., "Tensor Programs VI", arXiv 2310.02244, whose branch multiplier is folded into the projections here).

`train.layer_lr_decay` is for fine-tuning: the lower a layer, the more general what it knows and the less it
should change (Sun et al., "How to Fine-Tune BERT for Text Classification?", arXiv 1905.05583, section 5.3.2).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import TrainConfig
from fpm_cli.models.attention import Attention
from fpm_cli.models.blocks import MLP, Stack

LR_SCALE = "lr_scale"  # a group's share of the scheduled learning rate


class GatedAdamW(torch.optim.AdamW):
    """AdamW that asks before it changes a weight.

    DeepSpeed calls `step` when the gradients are reduced and their norm is known, once a group or shard.
    """

    gate: Callable[[], bool] | None = None

    def step(self, closure: Any = None) -> Any:
        """As AdamW's, or nothing at all."""
        return super().step(closure) if self.gate is None or self.gate() else None


def make_optimizer(model: nn.Module, train: TrainConfig) -> GatedAdamW:
    """AdamW over `parameter_groups`; its fused form, which is the quickest on every device."""
    return GatedAdamW(
        parameter_groups(model, train),
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        eps=train.adam_epsilon,
        fused=True,
    )


def parameter_groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Every parameter once, grouped by weight decay and share of the learning rate.

    Decay spares biases and norms (the paper, section 4.1), which are the vectors.
    """
    scales = _depth_scales(model) if train.lr_depth_scaled else {}
    if train.layer_lr_decay < 1:
        for parameter, share in _layer_decays(model, train.layer_lr_decay).items():
            scales[parameter] = scales.get(parameter, 1.0) * share
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        decay = train.weight_decay if parameter.dim() >= 2 else 0.0
        groups.setdefault((decay, scales.get(parameter, 1.0)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, LR_SCALE: scale}
        for (decay, scale), parameters in groups.items()
    ]


def _depth_scales(model: nn.Module) -> dict[Tensor, float]:
    """Shares of the learning rate inside the layers; embeddings, final norms and heads keep all of it."""
    scales: dict[Tensor, float] = {}
    for stack in model.modules():
        if isinstance(stack, Stack):
            branches = 2 * len(stack.layers)
            scales.update(dict.fromkeys(stack.layers.parameters(), 1 / math.sqrt(branches)))
            for module in stack.layers.modules():
                if isinstance(module, Attention):
                    scales[module.out.weight] = 1 / branches
                elif isinstance(module, MLP):
                    scales[module.down.weight] = 1 / branches
    return scales


def _layer_decays(model: nn.Module, decay: float) -> dict[Tensor, float]:
    """1 for the top layer of each stack, `decay` for the one below it, and so on down to the embeddings."""
    scales: dict[Tensor, float] = {}
    deepest = 0
    for stack in model.modules():
        if isinstance(stack, Stack):
            deepest = max(deepest, len(stack.layers))
            for below, layer in enumerate(reversed(stack.layers)):
                scales.update(dict.fromkeys(layer.parameters(), decay**below))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            scales.update(dict.fromkeys(module.parameters(), decay**deepest))
    return scales
