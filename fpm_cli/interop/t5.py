"""fpm's encoder-decoder is T5 v1.1: gated GELU and an output head that is not tied (see `untied_t5.py`)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fpm_cli.config.schema import ModelConfig
from fpm_cli.errors import UsageError
from fpm_cli.interop.weight_mapping import (
    Architecture,
    map_module,
    number,
    refuse_unless_pre_norm,
    require,
)
from fpm_cli.models.encdec import MAX_DISTANCE, NUM_BUCKETS

MODEL_TYPE = "fpm_t5"
MODEL_CODE = "untied_t5.py"  # the file with the model class that an export contains


def architecture(config: ModelConfig) -> Architecture:
    """The T5 with an untied head that computes the same as fpm's encoder-decoder with this configuration.

    Raises:
        UsageError: transformers has none.
    """
    refuse_unless_pre_norm(config, "T5")
    depth = config.num_layers // 2
    module = MODEL_CODE.removesuffix(".py")
    document = {
        "model_type": MODEL_TYPE,
        "auto_map": {
            "AutoConfig": f"{module}.UntiedT5Config",
            **dict.fromkeys(
                ("AutoModel", "AutoModelForSeq2SeqLM", "AutoModelForPreTraining"), f"{module}.UntiedT5"
            ),
        },
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "d_kv": config.head_size,
        "d_ff": config.ffn_size,
        "num_layers": depth,
        "num_decoder_layers": depth,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": NUM_BUCKETS,
        "relative_attention_max_distance": MAX_DISTANCE,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": config.norm_epsilon,
        "dropout_rate": config.dropout,
        "tie_word_embeddings": False,
        "is_encoder_decoder": True,
    }
    names = [("token_embedding", "shared"), ("head", "lm_head")]
    for stack in ("encoder", "decoder"):
        names += [
            (f"{stack}.final_norm", f"{stack}.final_layer_norm"),
            (f"{stack}_bias.table", f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"),
        ]
    modules: list[tuple[str, list[str]]] = [(ours, [theirs]) for ours, theirs in names]
    for layer in range(depth):
        modules += _layer(f"encoder.layers.{layer}", f"encoder.block.{layer}.layer", cross=False)
        modules += _layer(f"decoder.layers.{layer}", f"decoder.block.{layer}.layer", cross=True)
    mappings = [
        mapping for ours, theirs in modules for mapping in map_module(ours, *theirs, kinds=["weight"])
    ]
    return Architecture("UntiedT5", document, tuple(mappings), prefix="")


def _layer(ours: str, theirs: str, *, cross: bool) -> list[tuple[str, list[str]]]:
    mlp = f"{theirs}.{2 if cross else 1}"
    names = [
        (f"{ours}.attention.norm", [f"{theirs}.0.layer_norm"]),
        (
            f"{ours}.attention.branch.query_key_value",
            [f"{theirs}.0.SelfAttention.{part}" for part in "qkv"],
        ),
        (f"{ours}.attention.branch.out", [f"{theirs}.0.SelfAttention.o"]),
        (f"{ours}.mlp.norm", [f"{mlp}.layer_norm"]),
        (f"{ours}.mlp.branch.gate", [f"{mlp}.DenseReluDense.wi_0"]),
        (f"{ours}.mlp.branch.up", [f"{mlp}.DenseReluDense.wi_1"]),
        (f"{ours}.mlp.branch.down", [f"{mlp}.DenseReluDense.wo"]),
    ]
    if cross:
        attention = f"{theirs}.1.EncDecAttention"
        names += [
            (f"{ours}.cross_attention.norm", [f"{theirs}.1.layer_norm"]),
            (f"{ours}.cross_attention.branch.query", [f"{attention}.q"]),
            (f"{ours}.cross_attention.branch.key_value", [f"{attention}.k", f"{attention}.v"]),
            (f"{ours}.cross_attention.branch.out", [f"{attention}.o"]),
        ]
    return names


def with_untied_head(document: dict[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A config.json that says whether the head is tied, as the weights show it.

    transformers 5 writes `tie_word_embeddings` true into every T5's config.json and, on loading, does not tie
    a head whose values differ from the embedding's. Its `scale_decoder_outputs` says what 4 derived from
    the former.
    """
    head, embedding = state.get("lm_head.weight"), state.get("shared.weight")
    is_t5 = document.get("model_type") in ("t5", "mt5", MODEL_TYPE)
    if not is_t5 or head is None or embedding is None or document.get("scale_decoder_outputs") is not False:
        return document
    return document if head.equal(embedding) else {**document, "tie_word_embeddings": False}


def read_config(document: Mapping[str, Any]) -> ModelConfig:
    """The configuration of the network that a T5 v1.1's config.json describes.

    Raises:
        UsageError: fpm has no such network, for example the first T5 with ReLU and a tied head.
        DamagedError: a size is missing.
    """
    if document.get("feed_forward_proj") != "gated-gelu" or document.get("tie_word_embeddings") is not False:
        raise UsageError(
            "config.json: not T5 v1.1's network, which has feed_forward_proj 'gated-gelu' and "
            "tie_word_embeddings false; fpm has no other T5"
        )
    depth = number(document, "num_layers")
    require(
        document,
        num_decoder_layers=depth,
        relative_attention_num_buckets=NUM_BUCKETS,
        relative_attention_max_distance=MAX_DISTANCE,
    )
    return ModelConfig(
        num_layers=2 * depth,
        hidden_size=number(document, "d_model"),
        num_heads=number(document, "num_heads"),
        head_size=number(document, "d_kv"),
        ffn_size=number(document, "d_ff"),
        vocab_size=number(document, "vocab_size"),
        max_positions=0,
        norm_epsilon=number(document, "layer_norm_epsilon", 1e-6),
        init_std=0.001,
        dropout=number(document, "dropout_rate", 0.1),
    )
