"""A study folder: the runs of its grid and where each lies.

study.toml        the grid, resolved
configs/          each run's configuration, as `fpm pretrain --config` reads it
corpus/           the sample corpus, where the study was given none
runs/             an ordinary run folder for each cell, and for each fine-tuning of one
results.jsonl     a row for each scored run; derived again from the run folders at any time
report.html       tables, figures and the verdict
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError
from fpm_cli.files import new_folder
from fpm_cli.study.settings import StudySettings, read_settings, write_settings

STUDIES = Path("studies")


@dataclass(frozen=True)
class Cell:
    """One pretraining run of a study: a depth, a seed and a horizon, or a learning rate that is tried."""

    depth: int
    seed: int
    horizon: float
    learning_rate: float
    tuning: bool  # tries a learning rate on a short horizon; not scored with the others
    name: str
    config: RunConfig
    trunk: str | None = None  # the cell whose checkpoint at `trunk_step` it decays from
    trunk_step: int = 0


@dataclass(frozen=True)
class Study:
    """An opened study folder."""

    path: Path
    settings: StudySettings

    @classmethod
    def create(cls, path: Path, settings: StudySettings) -> "Study":
        """Make a new study folder.

        Raises:
            UsageError: something is already there.
        """
        if path.exists():
            raise UsageError(
                f"{path} is already there; `fpm study resume {path}` continues it, --out names another"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(path) as folder:
            for name in ("configs", "runs"):
                (folder / name).mkdir(parents=True)
            write_settings(settings, folder)
        return cls(path, settings)

    @classmethod
    def open(cls, path: Path) -> "Study":
        """Open an existing study folder; a bare name is looked for under `studies/`.

        Raises:
            MissingError: it is not there, or not a study.
            DamagedError: its study.toml is damaged.
        """
        folder = path if path.exists() or path.is_absolute() else STUDIES / path
        return cls(folder, read_settings(folder))

    @property
    def corpus_path(self) -> Path:
        """The corpus that every run trains on and is scored on."""
        return self.path.resolve() / self.settings.corpus

    def ensure_corpus(self) -> None:
        """Build the sample corpus of a study of proxies that was given none."""
        path = self.corpus_path
        if path.is_relative_to(self.path.resolve()) and not path.exists():
            from fpm_cli.corpus.samples import build_sample_corpus

            build_sample_corpus(self.settings.reference_config, path)

    @property
    def is_archived(self) -> bool:
        """Whether only the rows of its runs are left."""
        return not (self.path / "runs").is_dir()

    def run_path(self, name: str) -> Path:
        """Where the run of a cell lies."""
        return self.path / "runs" / name

    def task_run_path(self, cell: Cell) -> Path:
        """Where the cell's network, fine-tuned for the study's task, lies."""
        return self.path / "runs" / f"{cell.name}-task"

    def config_path(self, cell: Cell) -> Path:
        """Where the cell's configuration lies."""
        return self.path / "configs" / f"{cell.name}.toml"

    @cached_property
    def tuning_cells(self) -> tuple[Cell, ...]:
        """The learning rates tried at each depth, with the first seed."""
        settings, seed = self.settings, self.settings.seeds[0]
        horizon = settings.horizons[-1] * settings.tuning_share
        return tuple(
            self._cell(depth, seed, horizon, rate, tuning=True)
            for depth in settings.depths
            for rate in settings.learning_rates
        )

    def cells(self, learning_rates: dict[int, float]) -> tuple[Cell, ...]:
        """The grid, each trunk before the runs that decay from it.

        Args:
            learning_rates: of each depth; the reference's where a depth is not in it.
        """
        return tuple(self._grid(learning_rates))

    def _grid(self, learning_rates: dict[int, float]) -> Iterator[Cell]:
        settings, default = self.settings, self.settings.reference_config.train.lr
        for depth in settings.depths:
            rate = learning_rates.get(depth, default)
            for seed in settings.seeds:
                *shorter, longest = settings.horizons
                branches = [self._cell(depth, seed, horizon, rate) for horizon in shorter]
                starts = [decay_start(branch.config) for branch in branches]
                trunk = self._cell(depth, seed, longest, rate, keep_steps=tuple(starts))
                yield trunk
                for branch, start in zip(branches, starts, strict=True):
                    yield Cell(**{**vars(branch), "trunk": trunk.name, "trunk_step": start})

    def _cell(
        self,
        depth: int,
        seed: int,
        horizon: float,
        rate: float,
        *,
        tuning: bool = False,
        keep_steps: tuple[int, ...] = (),
    ) -> Cell:
        config = self.settings.config(depth, seed, horizon)
        train = config.train.model_copy(
            update={"lr": rate, "min_lr": min(config.train.min_lr, rate), "keep_steps": keep_steps}
        )
        name = f"depth-{depth:03d}-seed-{seed}"
        if tuning:
            name += f"-lr-{rate:g}"
        elif len(self.settings.horizons) > 1:
            name += f"-steps-{train.steps}"
        config = config.model_copy(update={"train": train})
        return Cell(depth, seed, horizon, rate, tuning, name, config)


def decay_start(config: RunConfig) -> int:
    """The step after which a `wsd` schedule decays, from which a shorter run can branch."""
    return config.train.steps - config.train.decay_steps
