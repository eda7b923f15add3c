"""What the rules in use do to each parameter: factors of initial value, rate, weight decay and epsilon.

`transfer` is CompleteP (`transfer.py`). `model.norm_scaled` is LayerNorm Scaling (Sun et al. 2025, arXiv
2502.05795): the norms of layer l, counted from 1 in its stack, are multiplied by 1/sqrt(l), so that the
variance of the residual stream does not grow exponentially with the depth. The multiplier is part of the
norm's gain and bias, not of the forward pass, which an AdamW update makes equivalent where learning rate and
epsilon follow; so an exported network needs none.
"""

import math

from torch import Tensor, nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.models.blocks import Stack
from fpm_cli.models.transfer import ParameterScale, transfer_scales


def parameter_scales(model: nn.Module, config: RunConfig) -> dict[Tensor, ParameterScale]:
    """The factors of the parameters that a rule scales; the others have none of their own."""
    if config.transfer:
        return transfer_scales(model, config.model, config.transfer)
    return norm_scales(model) if config.model.norm_scaled else {}


def norm_scales(model: nn.Module) -> dict[Tensor, ParameterScale]:
    """The factors of LayerNorm Scaling."""
    scales: dict[Tensor, ParameterScale] = {}
    for stack in (module for module in model.modules() if isinstance(module, Stack)):
        for number, layer in enumerate(stack.layers, start=1):
            factor = 1 / math.sqrt(number)
            for norm in layer.modules():
                if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
                    scale = ParameterScale(init=factor, lr=factor, epsilon=1 / factor)
                    scales.update(dict.fromkeys(norm.parameters(), scale))
    return scales
