"""Validation during training: when it is due, and the losses on the same fixed samples each time."""

import torch

from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.batches import load_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.telemetry import Telemetry
from fpm_cli.engine.time_budget import TimeBudget
from fpm_cli.engine.workload import ValidationResult, Workload
from fpm_cli.objectives.base import Samples
from fpm_cli.progress import Report


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
        """The result after `step` optimizer steps, or None where there is none; every rank calls this."""
        if step % self.eval_every and not is_last_step:
            return None
        with self.budget.timing("validation"):
            result = self.workload.validate(self.engine, self.telemetry.validating)
            if result:
                self.telemetry.validation(step, result)
        return result


def validation_losses(
    engine: TrainingEngine, samples: Samples, config: RunConfig, report: Report
) -> dict[str, float]:
    """Mean loss of each term in nats per prediction over the first `eval_samples` samples, each counted once.

    The samples are cut into forward passes that the ranks take in turns. Every rank runs the same number of
    passes, which ZeRO 3 needs to gather weights: a rank without samples repeats a pass, which is not counted.
    `report` is called with those that are done, and their number.
    """
    world, num_samples = engine.world, min(config.train.eval_samples, len(samples))
    size = min(config.train.micro_batch, -(-num_samples // world.size))
    passes = [range(start, min(start + size, num_samples)) for start in range(0, num_samples, size)]
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    engine.model.eval()
    with torch.no_grad():
        for first in range(0, len(passes), world.size):
            is_counted = first + world.rank < len(passes)
            batch = load_batch(samples, passes[first + world.rank if is_counted else 0], world.device)
            predictions = engine.model.num_predictions(batch)  # type: ignore[operator]
            for name, total in engine.deepspeed(batch).items():
                sums[name] = sums.get(name, 0.0) + (float(total) if is_counted else 0.0)
                counts[name] = counts.get(name, 0.0) + (float(predictions[name]) if is_counted else 0.0)
            report(min(first + world.size, len(passes)), len(passes))
    engine.model.train()
    totals, numbers = world.sum(list(sums.values())), world.sum(list(counts.values()))
    return {name: total / number for name, total, number in zip(sums, totals, numbers, strict=True)}
