"""From a configuration to a network: on the `meta` device in a moment, or with real, seeded weights."""

import torch
from torch import nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.models.bert import BERT
from fpm_cli.models.blocks import Layer, Stack
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.models.initialise import initialise

FAMILIES: dict[str, type[GPT] | type[BERT] | type[EncoderDecoder]] = {
    "gpt": GPT,
    "bert": BERT,
    "encdec": EncoderDecoder,
}


def build_skeleton(config: RunConfig) -> nn.Module:
    """The network on the `meta` device: shapes only, no memory."""
    with torch.device("meta"):
        model = FAMILIES[config.family](config.model)
    for module in model.modules():
        if isinstance(module, Stack):
            module.recompute = config.engine.recompute == "full"
        elif isinstance(module, Layer):
            module.recompute_mlp = config.engine.recompute == "selective"
    return model


def build_model(config: RunConfig, device: torch.device | str = "cpu") -> nn.Module:
    """The network with initial weights, a pure function of the configuration (its seed included)."""
    model = build_skeleton(config).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(config.train.seed)
    initialise(model, config.model, generator)
    return model
