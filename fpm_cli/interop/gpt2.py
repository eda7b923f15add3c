"""fpm's GPT is `GPT2LMHeadModel` in transformers, whose `Conv1D` holds every matrix transposed."""

from collections.abc import Mapping
from typing import Any

from fpm_cli.config.schema import ModelConfig
from fpm_cli.interop.weight_mapping import (
    Architecture,
    ParameterMapping,
    map_module,
    number,
    refuse_unless_pre_norm,
    refuse_unless_square,
    require,
)

_LAYER = {
    "attention.norm": "ln_1",
    "attention.branch.query_key_value": "attn.c_attn",
    "attention.branch.out": "attn.c_proj",
    "mlp.norm": "ln_2",
    "mlp.branch.up": "mlp.c_fc",
    "mlp.branch.down": "mlp.c_proj",
}


def architecture(config: ModelConfig) -> Architecture:
    """The GPT-2 that computes the same as fpm's GPT with this configuration.

    Raises:
        UsageError: transformers has none.
    """
    refuse_unless_pre_norm(config, "GPT")
    refuse_unless_square(config, "GPT")
    document = {
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.max_positions,
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.ffn_size,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": config.init_std,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
    }
    mappings = [
        *map_module("token_embedding", "transformer.wte", kinds=["weight"]),
        *map_module("position_embedding", "transformer.wpe", kinds=["weight"]),
        *map_module("decoder.final_norm", "transformer.ln_f"),
    ]
    for layer in range(config.num_layers):
        for ours, theirs in _LAYER.items():
            weight, bias = map_module(f"decoder.layers.{layer}.{ours}", f"transformer.h.{layer}.{theirs}")
            mappings += [
                ParameterMapping(weight.ours, weight.theirs, transposed=not ours.endswith("norm")),
                bias,
            ]
    return Architecture("GPT2LMHeadModel", document, tuple(mappings), prefix="transformer.")


def read_config(document: Mapping[str, Any]) -> ModelConfig:
    """The configuration of the network that a GPT-2's config.json describes.

    Raises:
        UsageError: fpm has no such network.
        DamagedError: a size is missing.
    """
    require(
        document,
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    hidden, heads = number(document, "n_embd"), number(document, "n_head")
    return ModelConfig(
        num_layers=number(document, "n_layer"),
        hidden_size=hidden,
        num_heads=heads,
        head_size=hidden // heads,
        ffn_size=number(document, "n_inner", 4 * hidden),
        vocab_size=number(document, "vocab_size"),
        max_positions=number(document, "n_positions"),
        norm_epsilon=number(document, "layer_norm_epsilon", 1e-5),
        init_std=number(document, "initializer_range", 0.02),
        dropout=number(document, "resid_pdrop", 0.1),
    )
