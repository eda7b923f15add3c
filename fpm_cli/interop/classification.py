"""The `...ForSequenceClassification` of transformers that computes the same as a fine-tuned run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError
from fpm_cli.interop.architectures import ARCHITECTURES
from fpm_cli.interop.weight_mapping import Architecture, ParameterMapping, StateDict, map_module
from fpm_cli.models.classifier import PRETRAINING_HEADS

_CLASS_NAMES = {
    "BertForPreTraining": "BertForSequenceClassification",
    "MegatronBertForPreTraining": "MegatronBertForSequenceClassification",
    "GPT2LMHeadModel": "GPT2ForSequenceClassification",
}
_GPT_FINAL_BIAS = "backbone.decoder.final_norm.bias"


def classification_architecture(config: RunConfig, labels: Sequence[str]) -> Architecture:
    """The classifier of transformers for a fine-tuned network.

    Args:
        config: of the fine-tuned run.
        labels: in the order of the classes; none for regression.

    Raises:
        UsageError: transformers has no such classifier.
    """
    base = ARCHITECTURES[config.family](config.model)
    pooling = config.finetune.pooling if config.finetune else "default"
    if base.class_name not in _CLASS_NAMES or pooling != "default":
        what = f"finetune.pooling {pooling!r}" if base.class_name in _CLASS_NAMES else config.family
        raise UsageError(f"transformers has no sequence classifier that computes what fpm's does with {what}")
    mappings = [
        ParameterMapping(f"backbone.{mapping.ours}", mapping.theirs, mapping.transposed)
        for mapping in base.mappings
        if not mapping.ours.startswith(PRETRAINING_HEADS)
    ]
    if config.family == "gpt":
        mappings += map_module("classifier", "score", kinds=["weight"])
    else:
        mappings += map_module("classifier", "classifier")
    document = {
        **base.config,
        "id2label": dict(enumerate(labels or ("value",))),
        "label2id": {label: index for index, label in enumerate(labels or ("value",))},
        "problem_type": "single_label_classification" if labels else "regression",
    }
    return Architecture(_CLASS_NAMES[base.class_name], document, tuple(mappings), base.prefix)


def without_head_bias(config: RunConfig, state: StateDict) -> StateDict:
    """The same function without a bias in the classifier, which GPT-2's in transformers does not have.

    The bias b of logits = W x + b becomes part of the last LayerNorm's bias: x + d with W d = b.
    """
    if config.family != "gpt":
        return state
    weight, bias = state["classifier.weight"], state["classifier.bias"]
    shift: Tensor = torch.linalg.lstsq(weight.double(), bias.double()[:, None]).solution[:, 0]
    rest = {name: tensor for name, tensor in state.items() if name != "classifier.bias"}
    return {**rest, _GPT_FINAL_BIAS: (state[_GPT_FINAL_BIAS].double() + shift).float()}
