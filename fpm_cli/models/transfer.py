"""CompleteP: initial values, learning rates, weight decay and Adam's epsilon of a network of any depth and
width, such that the learning rate found on a small one serves them all (Dey et al. 2025, arXiv 2505.01618,
table 1 with alpha = 1; the width's part is muP, Yang et al., arXiv 2203.03466).

With m_N = width / base_width and m_L = layers / base_layers:

| parameter                               | initial std | rate        | decay     | epsilon      |
|-----------------------------------------|-------------|-------------|-----------|--------------|
| embeddings, position tables             | 1           | 1           | 1         | 1/m_N        |
| matrices inside layers                  | 1/sqrt(m_N) | 1/m_N       | m_N       | 1/(m_N m_L)  |
| projections into the residual stream    | 1/sqrt(m_N) | 1/m_N       | m_N       | 1/(m_N m_L)  |
|   ... with the branch's 1/m_L in them   | x 1/m_L     | x 1/m_L     | x m_L     | x m_L        |
| biases and norms inside layers          | 1           | 1           | 1         | 1/(m_N m_L)  |
| matrices of heads from width to width   | 1/sqrt(m_N) | 1/m_N       | m_N       | 1/m_N        |
| what feeds or makes the logits          | 1/m_N       | 1/m_N       | m_N       | 1            |

The branch multiplier 1/m_L and the logits' 1/m_N are part of the parameters, not of the forward pass, which
an AdamW update makes equivalent; so an exported network needs no multipliers. Where the head is the token
embedding (GPT, BERT), the norm before it carries the logits' factor.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig, TransferConfig
from fpm_cli.models.attention import CrossAttention, SelfAttention
from fpm_cli.models.bert import BERT
from fpm_cli.models.blocks import MLP, Stack
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.models.parameters import whole_shape


@dataclass(frozen=True)
class ParameterScale:
    """Factors of one parameter's initial value, learning rate, weight decay and Adam's epsilon."""

    init: float = 1.0
    lr: float = 1.0
    weight_decay: float = 1.0
    epsilon: float = 1.0


def transfer_scales(
    model: nn.Module, config: ModelConfig, transfer: TransferConfig
) -> dict[Tensor, ParameterScale]:
    """The factors of every parameter of a network, by the table above."""
    width = config.hidden_size / transfer.base_width
    depth = config.num_layers / transfer.base_layers
    embedding = ParameterScale(epsilon=1 / width)
    scales: dict[Tensor, ParameterScale] = dict.fromkeys(model.parameters(), embedding)
    for matrix in _head_matrices(model):
        scales[matrix] = ParameterScale(1 / math.sqrt(width), 1 / width, width, 1 / width)
    for parameter in _logit_parameters(model):
        scales[parameter] = ParameterScale(1 / width, 1 / width, width, 1.0)
    inner = ParameterScale(1 / math.sqrt(width), 1 / width, width, 1 / (width * depth))
    vector = ParameterScale(epsilon=1 / (width * depth))
    for layers in (stack.layers for stack in model.modules() if isinstance(stack, Stack)):
        for parameter in layers.parameters():
            scales[parameter] = inner if len(whole_shape(parameter)) > 1 else vector
        for projection in _residual_projections(layers):
            for parameter in projection.parameters():
                scales[parameter] = _with_branch(scales[parameter], depth)
    return scales


def _with_branch(scale: ParameterScale, depth: float) -> ParameterScale:
    """The branch's 1/m_L as part of the parameter."""
    return ParameterScale(
        scale.init / depth, scale.lr / depth, scale.weight_decay * depth, scale.epsilon * depth
    )


def _residual_projections(layers: nn.Module) -> Iterator[nn.Linear]:
    for module in layers.modules():
        if isinstance(module, SelfAttention | CrossAttention):
            yield module.out
        elif isinstance(module, MLP):
            yield module.down


def _head_matrices(model: nn.Module) -> Iterator[Tensor]:
    """Matrices of heads whose inputs and outputs both grow with the width."""
    if isinstance(model, BERT):
        yield model.pooler.weight
        yield model.mlm_head.dense.weight


def _logit_parameters(model: nn.Module) -> Iterator[Tensor]:
    """The norm before a head tied to the embedding, or the head itself."""
    if isinstance(model, GPT):
        yield from model.decoder.final_norm.parameters()
    elif isinstance(model, BERT):
        yield from model.mlm_head.norm.parameters()
        if hasattr(model, "sentence_order_head"):
            yield model.sentence_order_head.weight
    elif isinstance(model, EncoderDecoder):
        yield model.head.weight
