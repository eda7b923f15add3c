"""Bytes that autograd keeps between forward and backward, from the structure of `fpm_cli/models`.

The counting follows Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1), but counts what these
modules save: fused attention keeps its inputs, its output and one number a query instead of the
score matrix, and a dropout keeps one byte an element.
"""

from fpm_cli.accounting.flops import masked_positions
from fpm_cli.config.schema import RunConfig

FLOAT32 = 4


def saved_bytes(config: RunConfig, *, element_bytes: int, micro_batch: int) -> int:
    """Bytes kept from the forward pass of one micro-batch, under `engine.recompute`.

    Args:
        config: the run.
        element_bytes: 4 for fp32, 2 for bf16 and fp16.
        micro_batch: sequences in the forward pass.
    """
    layers = layer_bytes(config, element_bytes=element_bytes, micro_batch=micro_batch)
    outside = _outside_layers(config, element_bytes, micro_batch)
    if config.engine.recompute == "none":
        return outside + sum(layers)
    inputs = micro_batch * config.model.hidden_size * element_bytes
    return outside + sum(inputs * length for length in _layer_lengths(config))


def recomputed_bytes(config: RunConfig, *, element_bytes: int, micro_batch: int) -> int:
    """What full recomputation needs on top at its worst moment: the inside of one layer."""
    if config.engine.recompute == "none":
        return 0
    return max(layer_bytes(config, element_bytes=element_bytes, micro_batch=micro_batch))


def layer_bytes(config: RunConfig, *, element_bytes: int, micro_batch: int) -> list[int]:
    """Bytes kept inside each layer when nothing is recomputed, first layer first."""
    if config.family != "encdec":
        own = _layer(config, config.train.sequence_length, element_bytes) * micro_batch
        return [own] * config.model.num_layers
    depth = config.model.num_layers // 2
    s_e, s_d = config.train.sequence_length, config.train.decoder_length
    encoder = _layer(config, s_e, element_bytes)
    decoder = _layer(config, s_d, element_bytes) + _attention(config, s_d, s_e, element_bytes, cross=True)
    return [encoder * micro_batch] * depth + [decoder * micro_batch] * depth


def _layer_lengths(config: RunConfig) -> list[int]:
    train, layers = config.train, config.model.num_layers
    if config.family != "encdec":
        return [train.sequence_length] * layers
    return [train.sequence_length] * (layers // 2) + [train.decoder_length] * (layers // 2)


def _layer(config: RunConfig, length: int, e: int) -> int:
    """Self-attention and MLP of one layer, for one sequence."""
    model = config.model
    h, f = model.hidden_size, model.ffn_size
    # MLP: gelu's input and output; gated: gate, its gelu, up, and their product
    inner = 4 * f if config.family == "encdec" else 2 * f
    mlp = _norm(config, length, e) + length * (h + inner) * e + _dropout(config, length * h)
    return _attention(config, length, length, e) + mlp


def _attention(config: RunConfig, queries: int, keys: int, e: int, *, cross: bool = False) -> int:
    """Norm, query, key, value, mix and output projection of one attention branch, for one sequence."""
    model = config.model
    h, a = model.hidden_size, model.attention_size
    projected = queries * a + 2 * keys * a  # query; key and value
    mixed = queries * a
    softmax = queries * model.num_heads * FLOAT32  # one log-sum-exp a query and head
    inputs = queries * h  # of the query projection; in cross-attention the memory is shared by all layers
    return (
        _norm(config, queries, e) + (inputs + projected + mixed) * e + softmax + _dropout(config, queries * h)
    )


def _norm(config: RunConfig, length: int, e: int) -> int:
    """A norm keeps its input and, in float32, the statistics of each position."""
    statistics = 1 if config.family == "encdec" else 2
    return length * config.model.hidden_size * e + length * statistics * FLOAT32


def _dropout(config: RunConfig, elements: int) -> int:
    return elements if config.model.dropout else 0


def _outside_layers(config: RunConfig, e: int, micro_batch: int) -> int:
    """Token ids, embedding dropout, final norms, and the heads with their float32 log-probabilities."""
    model, train = config.model, config.train
    s, s_d, h = train.sequence_length, train.decoder_length, model.hidden_size
    length = s + s_d
    one = length * 8 + _dropout(config, length * h) + _norm(config, length, e)
    if config.family == "bert":
        predicted = masked_positions(s)
        one += predicted * (4 * h * e + 2 * FLOAT32)  # dense, gelu, norm, decoder
    else:
        predicted = s_d or s
        one += predicted * h * e
    return micro_batch * (one + predicted * model.vocab_size * FLOAT32)
