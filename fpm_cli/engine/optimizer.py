"""AdamW and its parameter groups: weight decay on matrices only, and learning rates by depth if configured.

An Adam step changes every weight by about the learning rate whatever the size of the gradient, so the 2L
branches of a network of L layers, which add up in one residual stream, change it by 2L aligned steps.
With `train.lr_depth_scaled` the layers learn at lr/sqrt(2L) and their projections into the residual
stream, which also start sqrt(2L) times smaller, at lr/2L, so that one rate suits every depth (Yang et
al., "Tensor Programs VI", arXiv 2310.02244, whose branch multiplier is folded into the projections here).

`train.layer_lr_decay` is for fine-tuning: lower layers are more general and should change less (Sun et al.,
"How to Fine-Tune BERT for Text Classification?", arXiv 1905.05583, section 5.3.2).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.models.attention import Attention
from fpm_cli.models.blocks import MLP, Stack
from fpm_cli.models.parameter_scales import parameter_scales
from fpm_cli.models.parameters import whole_shape
from fpm_cli.models.transfer import ParameterScale

ShouldSkip = Callable[[float, float], str | None]  # loss, gradient norm -> why to skip the step
LR_SCALE = "lr_scale"  # a group's share of the scheduled learning rate


class SkipStepAdamW(torch.optim.AdamW):
    """AdamW that leaves weights and moments unchanged where `should_skip` gives a reason.

    DeepSpeed calls `step` once per parameter group or shard, when the gradients are reduced and their norm
    is known; the calls of one optimizer step share one decision. Calls outside `begin_step` and `end_step`
    do nothing: DeepSpeed makes one with zero gradients when it is set up, which under ZeRO 0 in bf16 would
    count in the bias correction and make the first steps up to a quarter too small.
    """

    should_skip: ShouldSkip | None = None
    skip_reason: str | None = None
    decided = False  # whether `step` was called since `begin_step`
    _loss = math.nan
    _gradient_norm: Callable[[], float] | None = None  # None outside of an optimizer step

    def begin_step(self, loss: float, gradient_norm: Callable[[], float]) -> None:
        """Start an optimizer step with this loss; `gradient_norm` is read at the first call of `step`."""
        self._loss, self._gradient_norm = loss, gradient_norm
        self.decided, self.skip_reason = False, None

    def end_step(self) -> None:
        """End the optimizer step; `decided` and `skip_reason` say what became of it."""
        self._gradient_norm = None

    def step(self, closure: Any = None) -> Any:
        """As AdamW's, or nothing where the step is skipped."""
        if self._gradient_norm is None:
            return None
        if not self.decided:
            self.decided = True
            if self.should_skip:
                self.skip_reason = self.should_skip(self._loss, self._gradient_norm())
        return super().step(closure) if self.skip_reason is None else None


def make_optimizer(model: nn.Module, config: RunConfig) -> SkipStepAdamW:
    """AdamW over `parameter_groups`, in the fused form, which is the fastest on every device."""
    train = config.train
    return SkipStepAdamW(
        parameter_groups(model, config),
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        eps=train.adam_epsilon,
        fused=True,
    )


def parameter_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """Every parameter once, grouped by weight decay, share of the learning rate and epsilon.

    Biases and norms, which are the vectors, have no weight decay (the paper, section 4.1).
    """
    train = config.train
    shares = _depth_scales(model) if train.lr_depth_scaled else {}
    if train.layer_lr_decay < 1:
        for parameter, share in _layer_decays(model, train.layer_lr_decay).items():
            shares[parameter] = shares.get(parameter, 1.0) * share
    scales = parameter_scales(model, config)
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        scale = scales.get(parameter, ParameterScale())
        decay = train.weight_decay * scale.weight_decay if len(whole_shape(parameter)) >= 2 else 0.0
        epsilon = train.adam_epsilon * scale.epsilon
        groups.setdefault((decay, shares.get(parameter, 1.0) * scale.lr, epsilon), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "eps": epsilon, LR_SCALE: share}
        for (decay, share, epsilon), parameters in groups.items()
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
