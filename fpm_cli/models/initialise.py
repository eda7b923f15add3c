"""The initial value of every parameter.

| parameter                              | initial                                            |
|----------------------------------------|----------------------------------------------------|
| embeddings, linear layers              | N(0, init_std)                                     |
| projections into the residual stream   | N(0, init_std / sqrt(2L)), L layers in the stack   |
| biases                                 | 0                                                  |
| norms                                  | weight 1, bias 0                                   |
| under DeepNorm: queries, keys          | Xavier normal, gain 1                              |
| under DeepNorm: values, outputs, MLP   | Xavier normal, gain beta (arXiv 2203.00555)        |

The first four rows are the references' (Megatron-LM's scaled init; CPM-1, CPM-2).
"""

import math

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.attention import Attention, CrossAttention, SelfAttention
from fpm_cli.models.blocks import MLP, Stack


def initialise(model: nn.Module, config: ModelConfig, generator: torch.Generator) -> None:
    """Fill every parameter of `model` in place; the same generator state gives the same bits."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, config.init_std, generator=generator)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.weight.fill_(1.0)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        for module in model.modules():
            if isinstance(module, Stack):
                _initialise_branches(module, config, generator)


def _initialise_branches(stack: Stack, config: ModelConfig, generator: torch.Generator) -> None:
    residual_std = config.init_std
    if config.residual_init_scaled:
        residual_std /= math.sqrt(2 * len(stack.layers))
    deepnorm = config.norm_placement == "deepnorm"
    for branch in stack.modules():
        if isinstance(branch, Attention):
            if deepnorm:
                _deepnorm_attention(branch, stack.layer_config.deepnorm_beta, generator)
            else:
                branch.out.weight.normal_(0.0, residual_std, generator=generator)
        elif isinstance(branch, MLP):
            if deepnorm:
                for linear in (branch.gate, branch.up, branch.down):
                    if linear is not None:
                        _xavier(linear.weight, stack.layer_config.deepnorm_beta, generator)
            else:
                branch.down.weight.normal_(0.0, residual_std, generator=generator)


def _deepnorm_attention(branch: Attention, beta: float, generator: torch.Generator) -> None:
    """Queries and keys with gain 1; values and the output projection with gain beta."""
    if isinstance(branch, CrossAttention):
        projections = [branch.query, branch.key_value]
    else:
        assert isinstance(branch, SelfAttention)
        projections = [branch.query_key_value]
    *queries_and_keys, values = [
        part
        for linear in projections
        for part in linear.weight.view(-1, branch.attention_size, linear.in_features)
    ]
    for part in queries_and_keys:
        _xavier(part, 1.0, generator)
    _xavier(values, beta, generator)
    _xavier(branch.out.weight, beta, generator)


def _xavier(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    outputs, inputs = weight.shape
    weight.normal_(0.0, gain * math.sqrt(2 / (outputs + inputs)), generator=generator)
