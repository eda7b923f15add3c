"""Measures this machine's speed: real optimizer steps on random tokens, and large matrix products."""

import time
from collections.abc import Callable

import torch

from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import World
from fpm_cli.models.build import build_model

MAX_STEPS = 12


def measure_step_seconds(
    config: RunConfig,
    world: World,
    *,
    budget_seconds: float,
    statistic: Callable[[list[float]], float] = min,
) -> float:
    """Run a few optimizer steps; by default the fastest counts, which other work disturbs least.

    Args:
        config: what to train.
        world: from `distributed_world`.
        budget_seconds: no step starts later than this after the first.
        statistic: of the steps' seconds; the mean predicts how long many steps take.
    """
    engine = TrainingEngine(build_model(config, world.device), config, world)
    split = split_batch(config.train, world.size)
    batches = [synthetic_batch(config, split.micro_batch) for _ in range(split.num_micro_batches)]
    engine.step(batches, lr=1e-4)  # the first step allocates
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < MAX_STEPS and (not seconds or time.perf_counter() - began < budget_seconds):
        start = time.perf_counter()
        engine.step(batches, lr=1e-4)
        seconds.append(time.perf_counter() - start)
    return statistic(seconds)


def measure_matmul_flops(*, budget_seconds: float) -> float:
    """FLOP/s of large float32 matrix products on the processor, the best of a few."""
    size = 1024  # 12 MB in three matrices: past the inner caches
    a, b = torch.ones(size, size), torch.ones(size, size)
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < budget_seconds:
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
