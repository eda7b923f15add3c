"""From samples to this rank's micro-batches: which sample goes where is a pure function of the step."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from fpm_cli.engine.deepspeed_engine import Batch, BatchShape
from fpm_cli.engine.world import World
from fpm_cli.objectives.base import Samples
from fpm_cli.objectives.collate import collate


def load_batch(samples: Samples, indices: range, device: torch.device) -> Batch:
    """Collate the samples at `indices` into tensors on `device`."""
    arrays = collate([samples[index] for index in indices])
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def training_batches(
    samples: Samples, shape: BatchShape, world: World, *, first_step: int, last_step: int
) -> Iterator[list[Batch]]:
    """The micro-batches of each step in turn; the next step is made while the current one trains.

    Step k of the run uses the samples [k*G, (k+1)*G) for the global batch G; rank r takes the r-th
    of `world.size` equal stretches.
    """
    share = shape.size * shape.count

    def load(step: int) -> list[Batch]:
        start = step * share * world.size + world.rank * share
        starts = range(start, start + share, shape.size)
        return [load_batch(samples, range(first, first + shape.size), world.device) for first in starts]

    with ThreadPoolExecutor(1, thread_name_prefix="fpm-batches") as pool:
        following = pool.submit(load, first_step)
        for step in range(first_step, last_step):
            current = following.result()
            if step + 1 < last_step:
                following = pool.submit(load, step + 1)
            yield current
