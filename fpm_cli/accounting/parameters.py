"""Every parameter's name and shape from the structure, without building anything; exact counts follow.

Names and order are the modules' own (`fpm_cli/models`), so that sharding can be computed exactly; a
test compares all twenty presets on the `meta` device.
"""

import math
from collections.abc import Iterator
from functools import cache

from fpm_cli.config.schema import Family, ModelConfig, RunConfig

TOKEN_TYPES = 2  # BERT: segment A and B
RELATIVE_BUCKETS = 32  # encoder-decoder: relative position buckets per head and stack

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]


def count_parameters(config: RunConfig) -> int:
    """The number of trainable parameters; a tied embedding counts once."""
    return _count(config.family, config.model)


def parameter_shapes(config: RunConfig) -> dict[str, Shape]:
    """The shape of every parameter by name, in the order in which the modules are registered."""
    return named_shapes(config.family, config.model)


@cache
def named_shapes(family: Family, model: ModelConfig) -> dict[str, Shape]:
    """`parameter_shapes` of a family's model, whatever the run."""
    return dict({"gpt": _gpt, "bert": _bert, "encdec": _encdec}[family](model))


@cache
def _count(family: Family, model: ModelConfig) -> int:
    return sum(math.prod(shape) for shape in named_shapes(family, model).values())


def _gpt(model: ModelConfig) -> Named:
    h = model.hidden_size
    yield "token_embedding.weight", (model.vocab_size, h)
    yield "position_embedding.weight", (model.max_positions, h)
    yield from _stack("decoder.", model, model.num_layers)


def _bert(model: ModelConfig) -> Named:
    h = model.hidden_size
    yield "token_embedding.weight", (model.vocab_size, h)
    yield "position_embedding.weight", (model.max_positions, h)
    yield "token_types.weight", (TOKEN_TYPES, h)
    if model.norm_placement != "pre":
        yield from _layer_norm("embedding_norm.", h)
    yield from _stack("encoder.", model, model.num_layers)
    yield from _linear("pooler.", h, h)
    yield "mlm_head.bias", (model.vocab_size,)
    yield from _linear("mlm_head.dense.", h, h)
    yield from _layer_norm("mlm_head.norm.", h)
    if model.sentence_task == "order":
        yield from _linear("sentence_order_head.", 2, h)


def _encdec(model: ModelConfig) -> Named:
    yield "token_embedding.weight", (model.vocab_size, model.hidden_size)
    for stack in ("encoder", "decoder"):
        yield f"{stack}_bias.table.weight", (RELATIVE_BUCKETS, model.num_heads)
    for stack in ("encoder", "decoder"):
        yield from _gated_stack(f"{stack}.", model, cross=stack == "decoder")
    yield "head.weight", (model.vocab_size, model.hidden_size)


def _stack(prefix: str, model: ModelConfig, num_layers: int) -> Named:
    """GPT and BERT: fused QKV, output projection, MLP, two LayerNorms a layer; biases everywhere."""
    h, a, f = model.hidden_size, model.attention_size, model.ffn_size
    for index in range(num_layers):
        layer = f"{prefix}layers.{index}."
        yield from _linear(f"{layer}attention.branch.query_key_value.", 3 * a, h)
        yield from _linear(f"{layer}attention.branch.out.", h, a)
        yield from _layer_norm(f"{layer}attention.norm.", h)
        yield from _linear(f"{layer}mlp.branch.up.", f, h)
        yield from _linear(f"{layer}mlp.branch.down.", h, f)
        yield from _layer_norm(f"{layer}mlp.norm.", h)
    if model.norm_placement == "pre":  # post-norm layouts end in a normalised state
        yield from _layer_norm(f"{prefix}final_norm.", h)


def _gated_stack(prefix: str, model: ModelConfig, *, cross: bool) -> Named:
    """Half of the encoder-decoder: gated MLP, RMSNorm (weight only), no biases."""
    h, a, f = model.hidden_size, model.attention_size, model.ffn_size
    for index in range(model.num_layers // 2):
        layer = f"{prefix}layers.{index}."
        yield f"{layer}attention.branch.query_key_value.weight", (3 * a, h)
        yield f"{layer}attention.branch.out.weight", (h, a)
        yield f"{layer}attention.norm.weight", (h,)
        if cross:
            yield f"{layer}cross_attention.branch.query.weight", (a, h)
            yield f"{layer}cross_attention.branch.key_value.weight", (2 * a, h)
            yield f"{layer}cross_attention.branch.out.weight", (h, a)
            yield f"{layer}cross_attention.norm.weight", (h,)
        yield f"{layer}mlp.branch.gate.weight", (f, h)
        yield f"{layer}mlp.branch.up.weight", (f, h)
        yield f"{layer}mlp.branch.down.weight", (h, f)
        yield f"{layer}mlp.norm.weight", (h,)
    if model.norm_placement == "pre":
        yield f"{prefix}final_norm.weight", (h,)


def _linear(prefix: str, outputs: int, inputs: int) -> Named:
    yield f"{prefix}weight", (outputs, inputs)
    yield f"{prefix}bias", (outputs,)


def _layer_norm(prefix: str, size: int) -> Named:
    yield f"{prefix}weight", (size,)
    yield f"{prefix}bias", (size,)
