"""Validation during training: when it is due, and the losses on the same fixed samples each time."""

import torch

from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.batches import load_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.telemetry import Telemetry
from fpm_cli.engine.time_budget import TimeBudget
from fpm_cli.engine.workload import ValidationResult, Workload
from fpm_cli.objectives.base import Samples


class Validator:
    """Validates every `eval_every` steps and after the last one, and reports the result."""

    def __init__(
        self,
        workload: Workload,
        engine: TrainingEngine,
        eval_every: int,
        telemetry: Telemetry,
        budget: TimeBudget,
    ):
        self.workload, self.engine, self.eval_every = workload, engine, eval_every
        self.telemetry, self.budget = telemetry, budget

    def validate_if_due(self, step: int, *, is_last_step: bool) -> ValidationResult | None:
        """The result after `step` optimizer steps, or None where none is due; every rank calls this."""
        if step % self.eval_every and not is_last_step:
            return None
        with self.budget.timing("validation"):
            result = self.workload.validate(self.engine)
            self.telemetry.validation(step, result)
        return result


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
