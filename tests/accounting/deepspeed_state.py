"""A rank that holds real DeepSpeed engines and prints the bytes of their state, for `test_sharding.py`.

The environment names rank and world; each argument is `PRESET,ZERO STAGE,PRECISION,key=value,...`.
"""

import json
import sys

import torch

from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model


def storage_bytes(tensors):
    """Bytes of the distinct storages behind `tensors`."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values())


def parameters_of(engine):
    for parameter in engine.model.parameters():
        yield parameter.data
        if hasattr(parameter, "ds_tensor"):  # ZeRO 3: this rank's share
            yield parameter.ds_tensor


def gradients_of(engine, stage):
    """Every gradient that is alive, wherever DeepSpeed keeps it."""
    if stage == 3:
        return [engine.optimizer.grad_partitions_flat_buffer]
    if hasattr(engine.optimizer, "fp32_groups_gradients_flat"):  # ZeRO 1 that adds in float32
        return [
            *engine.optimizer.fp32_groups_gradients_flat,
            *(p.grad for p in engine.model.parameters() if p.grad is not None),
        ]
    flat = [
        group.flat_partition
        for group in getattr(engine.optimizer, "averaged_gradients", {}).values()
        if getattr(group, "flat_partition", None) is not None
    ]
    summed = [t for group in getattr(engine.optimizer, "all_grad_tensors", {}).values() for t in group or []]
    return [*flat, *summed, *(p.grad for p in engine.model.parameters() if p.grad is not None)]


def optimizer_states_of(engine):
    outer = engine.optimizer
    inner = getattr(outer, "optimizer", outer)
    yield from (t for state in inner.state.values() for t in state.values())
    for name in (
        "single_partition_of_fp32_groups",
        "fp32_partitioned_groups_flat",
        "fp32_groups_flat",
        "fp32_groups_flat_partition",
    ):
        yield from getattr(outer, name, [])
    yield from (t for group in getattr(outer, "fp32_groups", []) for t in group)


def measure(case, world):
    preset, stage, precision, *sizes = case.split(",")
    options = [
        f"engine.zero_stage={stage}",
        f"engine.precision={precision}",
        "train.global_batch=4",
        "train.micro_batch=1",
    ]
    options += ["engine.kernels=reference", *sizes]  # compiled, ZeRO 0 keeps one step count per group
    config = resolve(preset, proxy=True, environment={}, assignments=options).config
    engine = TrainingEngine(build_model(config, world.device), config, world)
    split = split_batch(config.train, world.size)
    batches = [synthetic_batch(config, split.micro_batch) for _ in range(split.num_micro_batches)]
    seen = {}
    take_step = engine.deepspeed.step

    def watched_step():
        seen.setdefault("grads", storage_bytes(gradients_of(engine, int(stage))))  # after the first pass
        take_step()

    engine.deepspeed.step = watched_step
    engine.step(batches, lr=1e-3)
    return [storage_bytes(parameters_of(engine)), seen["grads"], storage_bytes(optimizer_states_of(engine))]


def main():
    torch.set_num_threads(1)
    with distributed_world(60, launched=True) as world:
        print(json.dumps([measure(case, world) for case in sys.argv[1:]]), flush=True)


if __name__ == "__main__":
    main()
