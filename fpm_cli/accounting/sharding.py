"""What DeepSpeed keeps of the model's state on each rank, to the byte.

ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054): stage 1 shards the optimizer's states, stage 2 the
gradients, stage 3 the parameters. The padding of each optimizer group and the thresholds are those of
DeepSpeed 0.19 (deepspeedai/DeepSpeed, deepspeed/runtime/zero); a test compares real engines of one
and two ranks at every stage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from fpm_cli.accounting.parameters import named_shapes
from fpm_cli.config.deepspeed import REDUCE_BUCKET_ELEMENTS, secondary_shards
from fpm_cli.config.schema import Family, ModelConfig, Precision, RunConfig

FLOAT32 = 4
FLOAT64 = 8
MOMENTS = 2
ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
# `zero_optimization` keys and their defaults, in elements.
REDUCE_BUCKET = ("reduce_bucket_size", REDUCE_BUCKET_ELEMENTS)
OVERLAP = ("overlap_comm", 1)  # of ZeRO 2
PERSISTENCE = ("stage3_param_persistence_threshold", 100_000)
MAX_LIVE = ("stage3_max_live_parameters", 1_000_000_000)

HEAP_BYTES = 32 * 2**20  # glibc's largest M_MMAP_THRESHOLD

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class StateBytes:
    """What a rank holds of the model's state from the first step on."""

    params: int
    grads: int  # between two forward passes
    optimizer: int
    step: int  # gradients and copies of them while the optimizer steps


def state_bytes(
    config: RunConfig, precision: Precision, num_ranks: int, rank: int = 0, passes: int = 1
) -> StateBytes:
    """Parameters, gradients and optimizer states of one rank under `engine.zero_stage`.

    Args:
        config: the run.
        precision: of parameters and gradients; in bf16 and fp16 the optimizer has float32 copies.
        num_ranks: data-parallel ranks.
        rank: whose share; ranks differ where a parameter crosses the border of their partitions.
        passes: forward passes per step, whose gradients may be added in float32 (`engine.grad_accum_dtype`).
    """
    persistent, engine = persistent_elements(config, num_ranks), config.engine
    in_fp32 = engine.accumulates_in_fp32(precision, passes)
    return _state_bytes(_groups(config), engine.zero_stage, persistent, precision, num_ranks, rank, in_fp32)


@cache  # a plan asks for the same state under many micro-batches and forms of recomputation
def _state_bytes(
    groups: Groups,
    stage: int,
    persistent: int,
    precision: Precision,
    num_ranks: int,
    rank: int,
    in_fp32: bool,
) -> StateBytes:
    e = ELEMENT_BYTES[precision]
    every = [size for group in groups for size in group]
    if stage == 0:
        masters = MOMENTS + (precision != "fp32")
        total = sum(every)
        # In mixed precision all gradients are copied to float32 (runtime/fp16/unfused_optimizer.py, `step`).
        step = e * total + (FLOAT32 * total if precision != "fp32" else 0)
        return StateBytes(e * total, e * total, masters * FLOAT32 * total + FLOAT32 * len(every), step)
    # Stages 1 to 3 keep a float32 copy of the shard, in fp32 too, and one step count a flat group.
    counts = FLOAT32 * len(groups)
    if stage < 3:
        padded = [_round_up(sum(group), 2 * num_ranks) for group in groups]
        shard = sum(padded) // num_ranks
        owned = sum(_owned_elements(groups, num_ranks, rank))
        # Stage 1 reduces gradients at the end of accumulation only, so every rank has all of them until then.
        grads = e * (sum(every) if stage == 1 else owned)
        # Of the shard's gradients one group at a time is flattened and, in mixed precision, copied to
        # float32. Before that the norm is taken of one parameter at a time, in float64
        # (runtime/zero/stage_1_and_2.py, `step` and `scaled_global_norm`).
        flat = max(padded) // num_ranks
        copies = flat * (FLOAT32 if precision == "fp32" else e + FLOAT32)
        step = e * owned + max(copies, FLOAT64 * max(every))
        if in_fp32 and stage == 1:
            # One buffer for all gradients, flattened and sent in bf16 (runtime/bf16_optimizer.py).
            grads = FLOAT32 * sum(padded)
            step = grads + (FLOAT32 + e) * max(padded)
        elif in_fp32:
            # One buffer for the shard, which the optimizer reads as it is.
            grads = step = FLOAT32 * shard
        return StateBytes(e * sum(padded), grads, (1 + MOMENTS) * FLOAT32 * shard + counts, step)
    shard = sum(-(-size // num_ranks) for size in every)
    return StateBytes(
        params=e * (shard + persistent),
        grads=(FLOAT32 if in_fp32 else e) * shard,
        optimizer=(1 + MOMENTS) * FLOAT32 * shard + counts,
        step=(FLOAT32 if in_fp32 else e) * shard + FLOAT32 * shard,
    )


def offloaded_bytes(
    config: RunConfig, precision: Precision, num_ranks: int, passes: int, rank: int = 0
) -> int:
    """What a rank keeps in host memory under `engine.offload`, weights apart.

    The optimizer's states and its float32 gradients, both of the shard; under ZeRO 1 and 2 a copy of the
    shard's weights on their way back, under ZeRO 3 the gradients of the passes.

    Args:
        config: the run.
        precision: of parameters and gradients.
        num_ranks: data-parallel ranks.
        passes: forward passes per step; under ZeRO 1 and 2 the gradients of several are summed on the host.
        rank: whose share.
    """
    if config.engine.offload == "none":
        return 0
    e = ELEMENT_BYTES[precision]
    optimizer = state_bytes(config, precision, num_ranks, rank).optimizer
    shard = optimizer // ((1 + MOMENTS) * FLOAT32)
    in_fp32, stage = config.engine.accumulates_in_fp32(precision, passes), config.engine.zero_stage
    summed = 0
    if stage < 3 and passes > 1 and not in_fp32:
        summed = e * sum(_owned_elements(_groups(config), num_ranks, rank))
    copied = FLOAT32 if stage == 3 and in_fp32 else e
    return optimizer + shard * (FLOAT32 + copied) + summed


def group_elements(config: RunConfig, num_ranks: int) -> list[int]:
    """Elements of one rank's share of each optimizer group, without padding; under ZeRO 0 of the whole."""
    num_shares = num_ranks if config.engine.zero_stage else 1
    return [-(-sum(group) // num_shares) for group in _groups(config)]


def heap_elements(config: RunConfig, element_bytes: int) -> int:
    """Elements of the parameters whose tensors a CPU's C library keeps when they are freed, for new ones.

    glibc returns larger ones to the system (mallopt(3), M_MMAP_THRESHOLD).
    """
    every = (size for group in _groups(config) for size in group)
    return sum(size for size in every if size * element_bytes < HEAP_BYTES)


def offload_buffer_elements(config: RunConfig) -> int:
    """Elements of the buffer through which ZeRO 1 and 2 move gradients: one on the device, one on the host.

    After DeepSpeed 0.19 (runtime/zero/stage_1_and_2.py, `temp_grad_buffer_for_cpu_offload`).
    """
    if config.engine.offload == "none" or config.engine.zero_stage == 3:
        return 0
    return largest_parameter(config)


def largest_parameter(config: RunConfig) -> int:
    """Elements of the largest parameter."""
    return max(max(group) for group in _groups(config))


def num_buckets(config: RunConfig) -> int:
    """How many buckets of gradients ZeRO has: ZeRO 2 fills one while it reduces the other."""
    stage = config.engine.zero_stage
    return 2 if stage == 2 and _zero_option(config, OVERLAP) else min(stage, 1)


def bucket_elements(config: RunConfig) -> int:
    """Elements of one buffer in which ZeRO gathers gradients before it reduces them."""
    return _zero_option(config, REDUCE_BUCKET)


def secondary_elements(config: RunConfig, num_ranks: int, ranks_per_server: int) -> int:
    """Elements of the second copy of the weights that ZeRO 3 shards within each of several servers."""
    shards = secondary_shards(num_ranks, ranks_per_server) if config.engine.zero_stage == 3 else 1
    return -(-sum(map(sum, _groups(config))) // shards) if shards > 1 else 0


def persistent_elements(config: RunConfig, num_ranks: int) -> int:
    """Elements of the small parameters that ZeRO 3 leaves whole on every rank."""
    if config.engine.zero_stage < 3 or num_ranks == 1:
        return 0
    return _small_elements(_groups(config), _zero_option(config, PERSISTENCE), num_ranks)


@cache
def _small_elements(groups: Groups, threshold: int, num_ranks: int) -> int:
    return sum(_round_up(size, num_ranks) for group in groups for size in group if size < threshold)


def gathered_elements(config: RunConfig, num_ranks: int) -> int:
    """Elements of the large parameters that ZeRO 3 may hold whole at a time while it computes."""
    if config.engine.zero_stage < 3 or (num_ranks == 1 and config.engine.offload != "parameters"):
        return 0
    total = sum(map(sum, _groups(config)))
    large = max(0, total - persistent_elements(config, num_ranks))
    return min(large, _zero_option(config, MAX_LIVE))


def _groups(config: RunConfig) -> Groups:
    """Sizes of the optimizer's groups in its order (`engine/optimizer.py`): by weight decay, which spares
    vectors, and by share of the learning rate, if that falls with depth.
    """
    train = config.train
    return _grouped(config.family, config.model, train.weight_decay, train.lr_depth_scaled)


@cache  # a dry run asks for the same groups under some hundred settings
def _grouped(family: Family, model: ModelConfig, weight_decay: float, lr_depth_scaled: bool) -> Groups:
    depth = model.num_layers // (2 if family == "encdec" else 1)
    groups: dict[tuple[float, float], list[int]] = {}
    for name, shape in named_shapes(family, model).items():
        decay = weight_decay if len(shape) >= 2 else 0.0
        scale = _learning_rate_share(name, depth) if lr_depth_scaled else 1.0
        groups.setdefault((decay, scale), []).append(math.prod(shape))
    return tuple(map(tuple, groups.values()))


def _learning_rate_share(name: str, depth: int) -> float:
    """1 outside the layers, less inside, least for the projections into the residual stream."""
    if ".layers." not in name:
        return 1.0
    return 1 / (2 * depth) if name.endswith((".out.weight", ".down.weight")) else 1 / math.sqrt(2 * depth)


def _owned_elements(groups: Groups, num_ranks: int, rank: int) -> list[int]:
    """Elements of each group whose gradients a rank keeps under ZeRO 2."""
    return [_owned(group, _round_up(sum(group), 2 * num_ranks) // num_ranks, rank) for group in groups]


def _owned(sizes: Sequence[int], partition: int, rank: int) -> int:
    """Elements whose gradients a rank keeps: parameters that cross its border in full."""
    owned, start, low, high = 0, 0, rank * partition, (rank + 1) * partition
    for size in sizes:
        if start < high and start + size > low:
            owned += size
        start += size
    return owned


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _zero_option(config: RunConfig, option: tuple[str, int]) -> int:
    """The user's `[engine.deepspeed.zero_optimization]` value, or the default."""
    key, default = option
    return int(config.engine.deepspeed.get("zero_optimization", {}).get(key, default))
