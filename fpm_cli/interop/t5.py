"""The encoder-decoder is T5 v1.1 with gated GELU and a head of its own (`untied_t5.py` says why not T5)."""

from collections.abc import Mapping
from typing import Any

from fpm_cli.config.schema import ModelConfig
from fpm_cli.errors import UsageError
from fpm_cli.interop.counterpart import (
    Counterpart,
    number,
    pair,
    refuse_unless_pre_norm,
    require,
)
from fpm_cli.models.encdec import MAX_DISTANCE, NUM_BUCKETS

MODEL_TYPE = "fpm_t5"
CODE = "untied_t5.py"  # the documented model file that an export holds


def counterpart(config: ModelConfig) -> Counterpart:
    """The T5 with an untied head that computes what our encoder-decoder of this configuration does.

    Raises:
        UsageError: there is none.
    """
    refuse_unless_pre_norm(config, "T5")
    depth = config.num_layers // 2
    module = CODE.removesuffix(".py")
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
    packed: list[tuple[str, list[str]]] = [(ours, [theirs]) for ours, theirs in names]
    for layer in range(depth):
        packed += _layer(f"encoder.layers.{layer}", f"encoder.block.{layer}.layer", cross=False)
        packed += _layer(f"decoder.layers.{layer}", f"decoder.block.{layer}.layer", cross=True)
    pairs = [one for ours, theirs in packed for one in pair(ours, *theirs, kinds=["weight"])]
    return Counterpart("UntiedT5", document, tuple(pairs), prefix="")


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


def read_config(document: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of the network that a T5 v1.1's config.json describes.

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
