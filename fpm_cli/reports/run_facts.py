"""What a run folder records, read for tables and pages: metrics, launches, settings, costs, task scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fpm_cli.accounting.calibration import Calibration
from fpm_cli.accounting.run_costs import RunCosts, read_run, run_costs
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import flatten, resolve
from fpm_cli.config.schema import Family, RunConfig
from fpm_cli.errors import FpmError
from fpm_cli.runs.manifest import Launch, RunManifest
from fpm_cli.runs.metrics import Row, read_rows
from fpm_cli.runs.run import Run

SEED = "train.seed"
LOSS_UNITS: dict[Family, str] = {"gpt": "token", "bert": "masked token", "encdec": "target token"}
PREDICTIONS = "predictions-"


@dataclass(frozen=True)
class RunFacts:
    """One run folder, read once. Losses are in nats per predicted token or example."""

    path: Path
    config: RunConfig
    manifest: RunManifest
    rows: Sequence[Row] = field(repr=False)
    calibration: Calibration | None = None  # of this machine, for a run on its processor

    @property
    def preset(self) -> str:
        """The preset's name, or the name of imported weights."""
        return self.config.name

    @property
    def task(self) -> str | None:
        """The task that the run was fine-tuned for."""
        return self.manifest.task.name if self.manifest.task else None

    @property
    def loss_unit(self) -> str:
        """What the validation loss is a mean over; losses over different things are not compared."""
        return "example" if self.task else LOSS_UNITS[self.config.family]

    @property
    def token_loss_name(self) -> str:
        """What is comparable with the unigram entropy: a BERT's `loss` includes its sentence task."""
        return "loss" if self.last("validation", "mlm") is None else "mlm"

    @property
    def initial_weights(self) -> str:
        """Where training started: random, or the weights of a pretrained run."""
        task = self.manifest.task
        if task is None or task.from_scratch:
            return "random"
        return f"{task.origin.run}, step {task.origin.step}"

    @property
    def train_names(self) -> str:
        """The names of a fine-tuning's training files."""
        return ", ".join(
            Path(path).name for path in (self.manifest.task.train_files if self.manifest.task else ())
        )

    @property
    def state(self) -> str:
        """created, running, stopped, finished or imported."""
        return str(self.manifest.state)

    @property
    def started(self) -> str | None:
        """The UTC time of the first launch, ISO 8601."""
        return self.launches[0].started or None if self.launches else None

    @property
    def launches(self) -> Sequence[Launch]:
        """Each process group that trained the run, oldest first."""
        return self.manifest.launches

    @property
    def step(self) -> int:
        """The last optimizer step; 0 before the first."""
        return max((row["step"] for row in self.of_kind("train")), default=0)

    def of_kind(self, kind: str) -> list[Row]:
        """The rows of metrics.jsonl of one kind, in their order."""
        return [row for row in self.rows if row.get("kind") == kind]

    def curve(self, kind: str, name: str) -> list[tuple[int, float]]:
        """(step, value) of each row that has a finite value of that name."""
        return [(row["step"], float(row[name])) for row in self.of_kind(kind) if row.get(name) is not None]

    def last(self, kind: str, name: str) -> float | None:
        """The last finite value of that name."""
        curve = self.curve(kind, name)
        return curve[-1][1] if curve else None

    @cached_property
    def changed_settings(self) -> dict[str, tuple[Any, Any]]:
        """Settings that differ from the preset, or from its proxy: (the preset's, the run's) by key.

        Empty for imported weights, which have no preset.
        """
        return changed_settings(self.config)

    @cached_property
    def costs(self) -> RunCosts | None:
        """Time, work and money; None before the first launch."""
        if not self.launches or not (self.path / "metrics.jsonl").is_file():
            return None
        return run_costs(read_run(self.path), calibration=self.calibration)

    @cached_property
    def predictions(self) -> dict[str, Path]:
        """The files that `fpm evaluate TASK` left in the run, by split."""
        files = sorted(self.path.glob(f"{PREDICTIONS}*.jsonl"))
        return {file.stem.removeprefix(PREDICTIONS): file for file in files}


def changed_settings(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from the preset of that name, or from its proxy: (the preset's, these) by key.

    Empty where there is no such preset.
    """
    if config.name not in preset_names():
        return {}
    preset = dict(flatten(resolve(config.name, proxy=config.proxy, environment={}).config))
    own = dict(flatten(config))
    return {
        key: (preset.get(key), own.get(key))
        for key in {**preset, **own}
        if preset.get(key) != own.get(key) and not key.startswith("paper.")
    }


def read_facts(path: Path, calibration: Calibration | None = None) -> RunFacts:
    """Read a run folder.

    Raises:
        MissingError: it is none.
        DamagedError: one of its files is not what a run writes.
    """
    run = Run.open(path)
    return RunFacts(path, run.config(), run.manifest(), read_rows(run.metrics), calibration)


def find_runs(folder: Path, calibration: Calibration | None = None) -> tuple[list[RunFacts], list[str]]:
    """All runs in a folder, and a line for each folder there that cannot be read as one."""
    runs, problems = [], []
    for path in sorted(config.parent for config in folder.glob("*/config.toml")):
        try:
            runs.append(read_facts(path, calibration))
        except (FpmError, OSError) as error:
            problems.append(f"{path}: not readable ({error})")
    return runs, problems
