"""The fine-tuning recipe: published values per family, overridden by the task's, then by the user's.

| | bert | gpt | encdec |
|---|---|---|---|
| learning rate | 5e-5 | 6.25e-5 | 1e-4 |
| epochs | 3 | 3 | 3 |
| batch | 32 | 32 | 32 |
| warm-up, share of the steps | 0.1 | 0.002 | 0.1 |

Linear decay to 0, AdamW with weight decay 0.01, at most 128 tokens, dropout as in pretraining. Sources: BERT,
Devlin et al. 2019, appendix A.3, and google-research/bert, run_classifier.py; GPT, Radford et al. 2018,
section 4.1; T5 was fine-tuned with Adafactor at 1e-3, and the documentation of transformers recommends 1e-4
for AdamW.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fpm_cli.config.resolve import difference, reconfigure
from fpm_cli.config.schema import Family, FinetuneConfig, RunConfig
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.tasks.definition import RecipeOverrides, TaskDefinition

MAX_LENGTH = 128
BATCH = 32
_LR: Mapping[Family, float] = {"bert": 5e-5, "gpt": 6.25e-5, "encdec": 1e-4}
_WARMUP_RATIO: Mapping[Family, float] = {"bert": 0.1, "gpt": 0.002, "encdec": 0.1}


def finetune_config(
    source: RunConfig,
    task: TaskDefinition,
    num_examples: int,
    *,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """The configuration with which `source` is fine-tuned on `num_examples` examples of `task`.

    Steps, warm-up and the validation interval follow from the epochs, unless the user sets them.

    Raises:
        UsageError, MissingError: as `resolve`.
        DamagedError: a setting differs from the one that the weights were trained with; names it.
    """

    def override(base: RunConfig) -> RunConfig:
        return reconfigure(base, config_file=config_file, environment=environment, assignments=assignments)

    base = _with_recipe(source, task.recipe)
    planned = override(base)
    tuning, batch = planned.finetune, planned.train.global_batch
    if tuning is None:
        raise UsageError("finetune: the table is missing")
    if not task.is_pair and (tuning.pooling == "compare" or tuning.both_orders):
        key = "both_orders" if tuning.both_orders else "pooling 'compare'"
        raise UsageError(f"finetune.{key}: {task.name} has one text, not a pair")
    steps = max(1, math.ceil(tuning.epochs * num_examples / batch))
    epoch = max(1, math.ceil(num_examples / batch))
    schedule = {
        "steps": steps,
        "warmup_steps": round(tuning.warmup_ratio * steps),
        "eval_every": epoch,
        "save_every": epoch,
    }
    config = override(base.model_copy(update={"train": base.train.model_copy(update=schedule)}))
    _refuse_another_model(source, config)
    return config


def both_orders(config: RunConfig) -> bool:
    """Whether each pair is used in both orders, A B and B A."""
    return config.finetune is not None and config.finetune.both_orders


def _with_recipe(source: RunConfig, recipe: RecipeOverrides) -> RunConfig:
    family, model = source.family, source.model
    wanted = recipe.max_length or MAX_LENGTH
    train: dict[str, Any] = {
        "sequence_length": min(wanted, model.max_positions) if model.max_positions else wanted,
        "decoder_length": int(family == "encdec"),
        "document_mask": False,
        "mask_eod_loss": False,
        "global_batch": recipe.batch_size or BATCH,
        "micro_batch": recipe.batch_size or BATCH,
        "lr": recipe.lr or _LR[family],
        "min_lr": 0.0,
        "lr_depth_scaled": False,
        "schedule": "linear",
        "weight_decay": 0.01 if recipe.weight_decay is None else recipe.weight_decay,
        "beta1": 0.9,
        "beta2": 0.999,
    }
    ratio, smoothing = recipe.warmup_ratio, recipe.label_smoothing
    tuning = FinetuneConfig(
        epochs=recipe.epochs or 3.0,
        warmup_ratio=_WARMUP_RATIO[family] if ratio is None else ratio,
        label_smoothing=0.0 if smoothing is None else smoothing,
    )
    dropout = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    # Activations of short sequences fit without recomputation or sharding; fp16 needs at least ZeRO 1.
    stage = int(source.engine.precision == "fp16")
    engine = {"recompute": "none", "zero_stage": stage, "keep_last": 1, "keep_best": True}
    return source.model_copy(
        update={
            "model": model.model_copy(update=dropout),
            "train": source.train.model_copy(update=train),
            "engine": source.engine.model_copy(update=engine),
            "finetune": tuning,
            "paper": None,
        }
    )


def _refuse_another_model(source: RunConfig, config: RunConfig) -> None:
    """Refuse settings that change the shape or the meaning of the weights; dropout may change."""

    def fixed_part(config: RunConfig) -> RunConfig:
        model = config.model.model_copy(update={"dropout": 0.0})
        kept = {name: getattr(config, name) for name in ("family", "language", "tokenizer")}
        return source.model_copy(update={**kept, "model": model})

    if changed := difference(fixed_part(source), fixed_part(config)):
        raise DamagedError(f"the pretrained weights have other settings: {changed}")
