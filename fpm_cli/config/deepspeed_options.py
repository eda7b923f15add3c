"""The user's own DeepSpeed options: reading them, and checking them against what fpm decides.

They come as `[deepspeed]` or `[engine.deepspeed]` in a configuration file, as `--set
engine.deepspeed.KEY=VALUE`, or in DeepSpeed's usual JSON file, which `engine.deepspeed = "FILE.json"`
names. fpm decides some options itself (`fpm_cli/config/deepspeed.py`): the same value or DeepSpeed's
"auto" is accepted there, another value is refused with the name of the fpm key that decides.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fpm_cli.errors import MissingError, UsageError, did_you_mean

# The top-level keys of DeepSpeed 0.19 (deepspeed/runtime/config.py and constants.py, and the monitors').
# fmt: off
KNOWN = frozenset({
        "activation_checkpointing", "aio", "autotuning", "bf16", "bfloat16", "checkpoint",
        "comms_logger", "communication_data_type", "compile", "csv_monitor", "curriculum_learning",
        "data_efficiency", "data_types", "dataloader_drop_last", "datastates_ckpt",
        "disable_allgather", "disable_python_gc", "dump_state", "elasticity", "expert_parallel",
        "flops_profiler", "fp16", "gradient_accumulation_steps", "gradient_allreduce_op",
        "gradient_clipping", "gradient_predivide_factor", "hybrid_engine", "log_level",
        "managed_gradient_accumulation", "memory_breakdown", "optimizer", "pipeline",
        "prescale_gradients", "scheduler", "seq_parallel_communication_data_type",
        "sequence_parallel_size", "steps_per_print", "tensor_parallel", "tensorboard", "timers",
        "torch_autocast", "train_batch_size", "train_micro_batch_size_per_gpu",
        "use_data_before_expert_parallelism", "wall_clock_breakdown", "wandb",
        "weight_quantization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
        "zero_optimization",
})
# fmt: on
# Options that fpm accepts from nobody, with the fpm keys that decide them.
DECIDED_BY_FPM = {
    "optimizer": "train.lr, train.beta1, train.beta2, train.adam_epsilon and train.weight_decay",
    "scheduler": "train.schedule, train.warmup_steps and train.min_lr",
    "activation_checkpointing": "engine.recompute",
    "gradient_accumulation_steps": "train.global_batch and train.micro_batch",
    "managed_gradient_accumulation": "train.global_batch and train.micro_batch",
    "torch_autocast": "engine.precision",
    "bfloat16": "engine.precision",
    "elasticity": "train.global_batch",
    "curriculum_learning": "the objective",
    "data_efficiency": "the objective",
    "gradient_allreduce_op": "train.global_batch",
    "sequence_parallel_size": "the launch",
}


def read_deepspeed_json(path: Path) -> dict[str, Any]:
    """DeepSpeed's usual file.

    Raises:
        MissingError: it is not there.
        UsageError: it is not a JSON object.
    """
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError(f"engine.deepspeed {path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"engine.deepspeed {path}: not a JSON file ({error})") from error
    if not isinstance(options, dict):
        raise UsageError(
            f"engine.deepspeed {path}: a JSON object belongs here, not a {type(options).__name__}"
        )
    return options


def check_options(options: Mapping[str, Any], decided: Mapping[str, tuple[str, Any]]) -> None:
    """Refuse options that DeepSpeed does not know and values that contradict fpm's configuration.

    Args:
        options: the user's.
        decided: for a dotted option, the fpm key that decides it and the value that it gives.

    Raises:
        ValueError: names each option and the fpm key that it contradicts.
    """
    problems = []
    for option, value in _flatten(options):
        top = option.split(".")[0]
        if top not in KNOWN:
            problems.append(f"deepspeed.{top}: DeepSpeed has no such key{did_you_mean(top, KNOWN)}")
        elif value == "auto":
            continue
        elif top in DECIDED_BY_FPM:
            problems.append(f"deepspeed.{top}: fpm decides it by {DECIDED_BY_FPM[top]}; leave it out")
        elif option in decided and decided[option][1] != value:
            key, expected = decided[option]
            problems.append(
                f"deepspeed.{option} is {value!r}, but {key} makes it {expected!r}; set {key} instead"
            )
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))


def without_auto(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that are "auto", which leaves fpm's value or DeepSpeed's default in place."""
    return {
        key: without_auto(value) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if value != "auto"
    }


def explain_rejected(error: ValidationError) -> str:
    """What DeepSpeed's own validation has against the options, a line for each."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        lines.append(f"engine.deepspeed: DeepSpeed rejects {key or error.title}: {problem['msg']}")
    return "\n".join(lines)


def _flatten(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
