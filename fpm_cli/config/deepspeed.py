"""How fpm's configuration becomes DeepSpeed's: which option follows from which key."""

from collections.abc import Mapping
from typing import Any

from fpm_cli.config.batch_split import BatchSplit
from fpm_cli.config.deepspeed_options import without_auto
from fpm_cli.config.sections import EngineConfig, Precision, TrainConfig

NEVER = 2**31  # steps between two of DeepSpeed's own progress lines
REDUCE_BUCKET_ELEMENTS = 200_000_000  # gradients that are reduced together; DeepSpeed's own default is 5e8


def decided_options(train: TrainConfig, engine: EngineConfig) -> dict[str, tuple[str, Any]]:
    """Each DeepSpeed option (dotted) that the configuration decides: the fpm key, and the option's value."""
    optimizer_device = "none" if engine.offload == "none" else "cpu"
    parameter_device = "cpu" if engine.offload == "parameters" else "none"
    return {
        "train_batch_size": ("train.global_batch", train.global_batch),
        "train_micro_batch_size_per_gpu": ("train.micro_batch", train.micro_batch),
        "gradient_clipping": ("train.clip_norm", train.clip_norm),
        "zero_optimization.stage": ("engine.zero_stage", engine.zero_stage),
        "zero_optimization.offload_optimizer.device": ("engine.offload", optimizer_device),
        "zero_optimization.offload_param.device": ("engine.offload", parameter_device),
        "bf16.enabled": ("engine.precision", engine.precision == "bf16"),
        "fp16.enabled": ("engine.precision", engine.precision == "fp16"),
        "fp16.min_loss_scale": ("engine.min_loss_scale", engine.min_loss_scale),
        "zero_allow_untested_optimizer": ("fpm's own optimizer", True),
        # DeepSpeed's CPU Adam is compiled at its first use; torch's AdamW is there.
        "zero_force_ds_cpu_optimizer": ("fpm's own optimizer", False),
    }


def deepspeed_config(
    train: TrainConfig,
    engine: EngineConfig,
    split: BatchSplit,
    precision: Precision,
    ranks_per_server: int = 1,
) -> dict[str, Any]:
    """DeepSpeed's configuration for one launch; the user's `[engine.deepspeed]` table is merged last.

    Args:
        train, engine: of the run.
        split: of the global batch over the ranks of this launch.
        precision: what `engine.precision` means on this launch's devices.
        ranks_per_server: where there are several servers, ZeRO 3 gathers within each of them.
    """
    values = {option: value for option, (_, value) in decided_options(train, engine).items()}
    values |= {
        "train_micro_batch_size_per_gpu": split.micro_batch,
        "gradient_accumulation_steps": split.num_micro_batches,
        "bf16.enabled": precision == "bf16",
        "fp16.enabled": precision == "fp16",
        "steps_per_print": NEVER,
        "timers.throughput.enabled": False,  # it waits for the GPU twice in each pass
    }
    if engine.zero_stage:
        values["zero_optimization.reduce_bucket_size"] = REDUCE_BUCKET_ELEMENTS
    if engine.zero_stage == 2:
        values["zero_optimization.overlap_comm"] = True  # as ZeRO 3 by default: it reduces in every pass
    if engine.zero_stage == 3 and (shards := secondary_shards(split.num_ranks, ranks_per_server)) > 1:
        values["zero_optimization.zero_hpz_partition_size"] = shards
    if engine.zero_stage == 3:
        # DeepSpeed replaces `F.linear` in the whole process, so that autograd keeps no gathered weights; its
        # bias is an extra addition, which changes results. Where whole layers are recomputed none are kept.
        values["zero_optimization.memory_efficient_linear"] = engine.recompute != "full"
    if engine.accumulates_in_fp32(precision, split.num_micro_batches):
        values["data_types.grad_accum_dtype"] = "fp32"
        if engine.zero_stage == 1:
            # Else each bf16 gradient stays beside the float32 sum until the next backward pass.
            values["bf16.immediate_grad_update"] = True
    options = without_auto(engine.deepspeed)
    options.pop("train_micro_batch_size_per_gpu", None)  # an upper bound; this launch may need a smaller one
    return _merge(_nest({option: value for option, value in values.items() if value != "none"}), options)


def secondary_shards(num_ranks: int, ranks_per_server: int) -> int:
    """Shards of the second copy of the weights that ZeRO 3 keeps in each of several servers, or 1 for none.

    The backward pass gathers from it, which takes half of the traffic of weights from the network between
    servers (Wang et al., "ZeRO++", arXiv 2306.10209, section 3.2).
    """
    several = num_ranks > ranks_per_server > 1 and num_ranks % ranks_per_server == 0
    return ranks_per_server if several else 1


def _nest(options: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted options as nested tables."""
    tree: dict[str, Any] = {}
    for option, value in options.items():
        *tables, name = option.split(".")
        table = tree
        for key in tables:
            table = table.setdefault(key, {})
        table[name] = value
    return tree


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        both_tables = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(inner, value) if both_tables else value  # type: ignore[arg-type]
    return merged
