"""The validation loss during training: the same fixed samples each time, shared out over the ranks."""

import torch

from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.batches import load_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.objectives.base import Samples


def validation_losses(engine: TrainingEngine, samples: Samples, config: RunConfig) -> dict[str, float]:
    """Mean loss of each term in nats per prediction over the first `eval_samples` samples.

    Every rank runs as many forward passes as any other (ZeRO 3 gathers weights in step), so the
    count is rounded down to whole batches over all ranks, but is at least one.
    """
    world, size = engine.world, config.train.micro_batch
    wanted = min(config.train.eval_samples, len(samples))
    size = max(1, min(size, wanted // world.size))
    passes = max(1, wanted // (size * world.size))
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    engine.model.eval()
    with torch.no_grad():
        for number in range(passes):
            start = (number * world.size + world.rank) * size
            batch = load_batch(samples, range(start, start + size), world.device)
            for name, total in engine.deepspeed(batch).items():
                sums[name] = sums.get(name, 0.0) + float(total)
            for name, count in engine.model.num_predictions(batch).items():  # type: ignore[operator]
                counts[name] = counts.get(name, 0.0) + float(count)
    engine.model.train()
    totals, numbers = world.sum(list(sums.values())), world.sum([counts[name] for name in sums])
    return {name: total / n for name, total, n in zip(sums, totals, numbers, strict=True)}
