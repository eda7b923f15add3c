"""fpm's BERT is `BertForPreTraining` with post-LN and `MegatronBertForPreTraining` with pre-LN."""

from collections.abc import Mapping
from typing import Any

from fpm_cli.config.schema import ModelConfig
from fpm_cli.errors import UsageError
from fpm_cli.interop.weight_mapping import Architecture, map_module, number, refuse_unless_square, require
from fpm_cli.models.bert import NUM_TOKEN_TYPES

# Name prefixes of the modules on top of the encoder; a checkpoint may lack any of them.
HEADS = ("pooler", "mlm_head", "sentence_order_head")
_QUERY_KEY_VALUE = ("query", "key", "value")


def architecture(config: ModelConfig) -> Architecture:
    """The BERT of transformers that computes the same as fpm's with this configuration.

    Raises:
        UsageError: transformers has none.
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
    mappings = [
        *map_module("token_embedding", f"{embeddings}.word_embeddings", kinds=["weight"]),
        *map_module("position_embedding", f"{embeddings}.position_embeddings", kinds=["weight"]),
        *map_module("token_types", f"{embeddings}.token_type_embeddings", kinds=["weight"]),
        *map_module("pooler", "bert.pooler.dense"),
        *map_module("mlm_head.dense", "cls.predictions.transform.dense"),
        *map_module("mlm_head.norm", "cls.predictions.transform.LayerNorm"),
        *map_module("mlm_head", "cls.predictions", kinds=["bias"]),
    ]
    if config.sentence_task == "order":
        mappings += map_module("sentence_order_head", "cls.seq_relationship")
    if pre:
        mappings += map_module("encoder.final_norm", "bert.encoder.ln")
    else:
        mappings += map_module("embedding_norm", f"{embeddings}.LayerNorm")
    norms = ("attention.ln", "ln") if pre else ("attention.output.LayerNorm", "output.LayerNorm")
    for layer in range(config.num_layers):
        ours, theirs = f"encoder.layers.{layer}", f"bert.encoder.layer.{layer}"
        packed = [f"{theirs}.attention.self.{part}" for part in _QUERY_KEY_VALUE]
        mappings += [
            *map_module(f"{ours}.attention.branch.query_key_value", *packed),
            *map_module(f"{ours}.attention.branch.out", f"{theirs}.attention.output.dense"),
            *map_module(f"{ours}.attention.norm", f"{theirs}.{norms[0]}"),
            *map_module(f"{ours}.mlp.branch.up", f"{theirs}.intermediate.dense"),
            *map_module(f"{ours}.mlp.branch.down", f"{theirs}.output.dense"),
            *map_module(f"{ours}.mlp.norm", f"{theirs}.{norms[1]}"),
        ]
    class_name = "MegatronBertForPreTraining" if pre else "BertForPreTraining"
    return Architecture(class_name, document, tuple(mappings), prefix="bert.")


def read_config(document: Mapping[str, Any]) -> ModelConfig:
    """The configuration of the network that a BERT's or MegatronBERT's config.json describes.

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
