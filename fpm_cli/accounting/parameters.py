"""Exact parameter counts from the structure, without building anything (spec of the twenty models).

Checked against the modules themselves on the `meta` device for all twenty presets.
"""

from fpm_cli.config.schema import ModelConfig, RunConfig

TOKEN_TYPES = 2  # BERT: segment A and B
RELATIVE_BUCKETS = 32  # encoder-decoder: relative position buckets per head and stack


def count_parameters(config: RunConfig) -> int:
    """The number of trainable parameters; a tied embedding counts once."""
    return sum(parameter_groups(config).values())


def parameter_groups(config: RunConfig) -> dict[str, int]:
    """Parameters by part: `embedding`, `layers`, `final_norm`, `heads`."""
    return {"gpt": _gpt, "bert": _bert, "encdec": _encdec}[config.family](config.model)


def _layer(model: ModelConfig) -> int:
    """One GPT or BERT layer: fused QKV, output projection, MLP, two LayerNorms; biases everywhere."""
    h, a, f = model.hidden_size, model.attention_size, model.ffn_size
    attention = (h * 3 * a + 3 * a) + (a * h + h)
    mlp = (h * f + f) + (f * h + h)
    return attention + mlp + 4 * h


def _final_norm(model: ModelConfig) -> int:
    """Weight and bias; post-norm layouts end in a normalised state and have none."""
    return 2 * model.hidden_size if model.norm_placement == "pre" else 0


def _gpt(model: ModelConfig) -> dict[str, int]:
    h = model.hidden_size
    return {
        "embedding": model.vocab_size * h + model.max_positions * h,
        "layers": model.num_layers * _layer(model),
        "final_norm": _final_norm(model),
        "heads": 0,
    }


def _bert(model: ModelConfig) -> dict[str, int]:
    h = model.hidden_size
    pooler = h * h + h
    masked_lm = (h * h + h) + 2 * h + model.vocab_size
    sentence_order = 2 * h + 2
    embedding_norm = 0 if model.norm_placement == "pre" else 2 * h
    return {
        "embedding": (model.vocab_size + model.max_positions + TOKEN_TYPES) * h + embedding_norm,
        "layers": model.num_layers * _layer(model),
        "final_norm": _final_norm(model),
        "heads": pooler + masked_lm + sentence_order,
    }


def _encdec(model: ModelConfig) -> dict[str, int]:
    h, a, f = model.hidden_size, model.attention_size, model.ffn_size
    attention, gated_mlp = 4 * h * a, 3 * h * f
    encoder_layer = attention + gated_mlp + 2 * h
    decoder_layer = 2 * attention + gated_mlp + 3 * h
    relative_bias = 2 * RELATIVE_BUCKETS * model.num_heads
    return {
        "embedding": model.vocab_size * h + relative_bias,
        "layers": model.num_layers // 2 * (encoder_layer + decoder_layer),
        "final_norm": 2 * h if model.norm_placement == "pre" else 0,
        "heads": model.vocab_size * h,
    }
