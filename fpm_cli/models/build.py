"""From a configuration to a network: on the `meta` device, or with initial weights."""

import torch
from torch import nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.models.bert import BERT
from fpm_cli.models.blocks import Layer, Stack
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.models.initialise import InitialValues

FAMILIES: dict[str, type[GPT] | type[BERT] | type[EncoderDecoder]] = {
    "gpt": GPT,
    "bert": BERT,
    "encdec": EncoderDecoder,
}


def build_skeleton(config: RunConfig) -> nn.Module:
    """The network on the `meta` device: shapes only, no memory."""
    with torch.device("meta"):
        return build_network(config)


def build_network(config: RunConfig) -> nn.Module:
    """The network's modules on the default device, with torch's own default values."""
    model = FAMILIES[config.family](config.model)
    set_recompute(model, config)
    return model


def set_recompute(model: nn.Module, config: RunConfig) -> None:
    """Set in every stack and layer what `engine.recompute` asks to recompute in the backward pass."""
    for module in model.modules():
        if isinstance(module, Stack):
            module.recompute = config.engine.recompute == "full"
        elif isinstance(module, Layer):
            module.recompute_mlp = config.engine.recompute == "selective"


def build_model(config: RunConfig, device: torch.device | str = "cpu") -> nn.Module:
    """The network with initial weights, a pure function of the configuration (its seed included)."""
    return materialise(build_skeleton(config), config, device)


def materialise(skeleton: nn.Module, config: RunConfig, device: torch.device | str) -> nn.Module:
    """Allocate a network that is on the `meta` device, in fp32, and fill it with the initial weights."""
    values = InitialValues(skeleton, config)
    model = skeleton.to_empty(device=device)
    values.fill(model)
    return model
