"""What a study takes before it starts: runs, FLOPs, hours and money."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fpm_cli.accounting.flops import step_flops
from fpm_cli.config.schema import RunConfig
from fpm_cli.study.study import Cell

FORWARD_SHARE = 1 / 3  # of a training step
SECONDS_AFTER_TRAINING = 3.0  # last save, end of the process
COMMANDS = 2  # training and scoring are two commands, each with a start of its own


@dataclass(frozen=True)
class Estimate:
    """Training and scoring all runs of a study, their fine-tunings included."""

    runs: int  # pretrainings
    finetunings: int
    model_flops: int
    device_hours: float
    hours: float  # of wall time, with the runs side by side as asked
    price: float | None

    def document(self) -> dict[str, float | int | None]:
        """For `--json`."""
        return dict(vars(self))


@dataclass(frozen=True)
class FinetuningCost:
    """Fine-tuning one network for the study's task and scoring it, without the start of the commands."""

    finetune_seconds: float
    scoring_seconds: float
    model_flops: int


@dataclass(frozen=True)
class Pace:
    """How fast this machine, or a device, is at what a study does, with its runs side by side as asked."""

    seconds_per_step: Callable[[RunConfig], float]
    start_seconds: float  # of one command until its first step
    validation_samples: int  # scored once at the end of each run
    finetuning: Callable[[RunConfig], FinetuningCost] | None = None  # None: the study has no task


def estimate_study(
    cells: Sequence[Cell],
    pace: Pace,
    *,
    num_jobs: int,
    num_processes: int,
    price_per_device_hour: float | None = None,
) -> Estimate:
    """Add up the cells.

    Args:
        cells: of the grid and of the tuning.
        pace: of each configuration, as it runs when `num_jobs` run side by side.
        num_jobs: runs side by side.
        num_processes: devices of each run.
        price_per_device_hour: in any currency.
    """
    seconds, flops, finetunings = 0.0, 0, 0
    for cell in cells:
        config, first = cell.config, cell.trunk_step
        step = pace.seconds_per_step(config)
        steps = config.train.steps - first
        evaluations = steps // config.train.eval_every + 1
        scored = evaluations * config.train.eval_samples + pace.validation_samples
        seconds += COMMANDS * pace.start_seconds + SECONDS_AFTER_TRAINING
        seconds += steps * step + FORWARD_SHARE * step * scored / config.train.global_batch
        flops += step_flops(config).model * steps
        if pace.finetuning and not cell.tuning:
            cost = pace.finetuning(config)
            seconds += COMMANDS * pace.start_seconds + SECONDS_AFTER_TRAINING
            seconds += cost.finetune_seconds + cost.scoring_seconds
            flops += cost.model_flops
            finetunings += 1
    device_hours = seconds * num_processes / 3600
    price = None if price_per_device_hour is None else device_hours * price_per_device_hour
    return Estimate(len(cells), finetunings, flops, device_hours, seconds / num_jobs / 3600, price)
