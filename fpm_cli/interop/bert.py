"""BERT is `BertForPreTraining` in post-LN and `MegatronBertForPreTraining` in pre-LN."""

from collections.abc import Mapping
from typing import Any

from fpm_cli.config.schema import ModelConfig
from fpm_cli.errors import UsageError
from fpm_cli.interop.counterpart import Counterpart, number, pair, refuse_unless_square, require
from fpm_cli.models.bert import NUM_TOKEN_TYPES

# What sits on top of the encoder, by the beginning of our names; a file may lack any of it.
HEADS = ("pooler", "mlm_head", "sentence_order_head")
_QUERY_KEY_VALUE = ("query", "key", "value")


def counterpart(config: ModelConfig) -> Counterpart:
    """The BERT that computes what ours of this configuration does.

    Raises:
        UsageError: there is none.
    """
    if config.norm_placement == "deepnorm":
        raise UsageError("transformers has no BERT with model.norm_placement 'deepnorm'")
    refuse_unless_square(config, "BERT")
    pre = config.norm_placement == "pre"
    document = {
        "model_type": "megatron-bert" if pre else "bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_size,
        "hidden_act": "gelu",
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": NUM_TOKEN_TYPES,
        "layer_norm_eps": config.norm_epsilon,
        "initializer_range": config.init_std,
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), config.dropout),
    }
    embeddings = "bert.embeddings"
    pairs = [
        *pair("token_embedding", f"{embeddings}.word_embeddings", kinds=["weight"]),
        *pair("position_embedding", f"{embeddings}.position_embeddings", kinds=["weight"]),
        *pair("token_types", f"{embeddings}.token_type_embeddings", kinds=["weight"]),
        *pair("pooler", "bert.pooler.dense"),
        *pair("mlm_head.dense", "cls.predictions.transform.dense"),
        *pair("mlm_head.norm", "cls.predictions.transform.LayerNorm"),
        *pair("mlm_head", "cls.predictions", kinds=["bias"]),
    ]
    if config.sentence_task == "order":
        pairs += pair("sentence_order_head", "cls.seq_relationship")
    if pre:
        pairs += pair("encoder.final_norm", "bert.encoder.ln")
    else:
        pairs += pair("embedding_norm", f"{embeddings}.LayerNorm")
    norms = ("attention.ln", "ln") if pre else ("attention.output.LayerNorm", "output.LayerNorm")
    for layer in range(config.num_layers):
        ours, theirs = f"encoder.layers.{layer}", f"bert.encoder.layer.{layer}"
        packed = [f"{theirs}.attention.self.{part}" for part in _QUERY_KEY_VALUE]
        pairs += [
            *pair(f"{ours}.attention.branch.query_key_value", *packed),
            *pair(f"{ours}.attention.branch.out", f"{theirs}.attention.output.dense"),
            *pair(f"{ours}.attention.norm", f"{theirs}.{norms[0]}"),
            *pair(f"{ours}.mlp.branch.up", f"{theirs}.intermediate.dense"),
            *pair(f"{ours}.mlp.branch.down", f"{theirs}.output.dense"),
            *pair(f"{ours}.mlp.norm", f"{theirs}.{norms[1]}"),
        ]
    architecture = "MegatronBertForPreTraining" if pre else "BertForPreTraining"
    return Counterpart(architecture, document, tuple(pairs), prefix="bert.")


def read_config(document: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of the network that a BERT's or MegatronBERT's config.json describes.

    Raises:
        UsageError: fpm has no such network.
        DamagedError: a size is missing.
    """
    require(
        document,
        hidden_act="gelu",
        position_embedding_type="absolute",
        type_vocab_size=NUM_TOKEN_TYPES,
        is_decoder=False,
        tie_word_embeddings=True,
    )
    hidden, heads = number(document, "hidden_size"), number(document, "num_attention_heads")
    return ModelConfig(
        num_layers=number(document, "num_hidden_layers"),
        hidden_size=hidden,
        num_heads=heads,
        head_size=hidden // heads,
        ffn_size=number(document, "intermediate_size"),
        vocab_size=number(document, "vocab_size"),
        max_positions=number(document, "max_position_embeddings"),
        norm_placement="pre" if document["model_type"] == "megatron-bert" else "post",
        norm_epsilon=number(document, "layer_norm_eps", 1e-12),
        init_std=number(document, "initializer_range", 0.02),
        dropout=number(document, "hidden_dropout_prob", 0.1),
    )
