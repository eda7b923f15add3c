"""Runs that differ in their seed only, as one line with a mean and an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from fpm_cli.config.resolve import flatten
from fpm_cli.errors import FpmError
from fpm_cli.reports.run_facts import SEED, RunFacts, read_facts


@dataclass(frozen=True)
class Estimate:
    """A mean over runs with its 95 % interval (Student's t); no interval for a single run."""

    mean: float
    low: float | None
    high: float | None
    num_runs: int


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration, in the order of their seeds."""

    runs: tuple[RunFacts, ...]

    @property
    def first(self) -> RunFacts:
        """The run that stands for the group's settings."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(run.config.train.seed for run in self.runs)

    def estimate(self, kind: str, name: str) -> Estimate | None:
        """The mean over runs of the last value of that name; None where no run has one."""
        values = [value for run in self.runs if (value := run.last(kind, name)) is not None]
        return estimate(values)


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % interval of independent values; None of none."""
    if not values:
        return None
    if len(values) == 1:
        return Estimate(values[0], None, None, 1)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    center = mean(values)
    return Estimate(center, center - half, center + half, len(values))


def group_runs(runs: Sequence[RunFacts]) -> list[RunGroup]:
    """Groups of finished runs that differ in the seed only; every other run is a group of its own.

    Runs with the same seed are not independent, so that only the first of each seed joins a group.
    """
    groups: dict[tuple[object, ...], list[RunFacts]] = {}
    for run in sorted(runs, key=lambda run: (run.config.train.seed, str(run.path))):
        key: tuple[object, ...] = (_configuration(run), run.config.train.seed, str(run.path))
        members = groups.get(key[:1])
        seeds = {member.config.train.seed for member in members or ()}
        if run.state == "finished" and run.config.train.seed not in seeds:
            groups.setdefault(key[:1], []).append(run)
        else:
            groups[key] = [run]
    order = {str(run.path): place for place, run in enumerate(runs)}
    made = [RunGroup(tuple(members)) for members in groups.values()]
    return sorted(made, key=lambda group: min(order[str(run.path)] for run in group.runs))


def _configuration(run: RunFacts) -> str:
    """What must be equal: every setting but the seed, the data, and for a fine-tuning the task and origin."""
    settings = [
        (key, value) for key, value in flatten(run.config) if key != SEED and key.partition(".")[0] != "track"
    ]
    about = (
        run.task,
        _origin(run),
        run.manifest.corpus_fingerprint,
        run.manifest.task and (run.manifest.task.from_scratch, run.manifest.task.train_fingerprints),
    )
    return repr((settings, about))


def _origin(run: RunFacts) -> object:
    """The pretrained run's configuration, so that pretraining seeds are grouped too; else its path."""
    if run.manifest.task is None:
        return None
    origin = run.manifest.task.origin
    try:
        pretrained = read_facts(Path(origin.run))
    except (FpmError, OSError):
        return origin.run
    return (_configuration(pretrained), origin.step)
