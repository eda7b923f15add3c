"""What one depth and seed of a study runs, in order: `fpm` commands, each done once its output is there."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fpm_cli.errors import FpmError
from fpm_cli.files import replace_text
from fpm_cli.runs.run import Run
from fpm_cli.study.study import Cell, Study

FPM = (sys.executable, "-m", "fpm_cli", "--quiet")
LM_SCORE, TASK_SCORE = "evaluation-lm.json", "evaluation-task.json"
DIVERGED = "diverged.txt"


@dataclass(frozen=True)
class Training:
    """A run folder that a command begins and another one continues."""

    run: Path
    begin: tuple[str, ...]
    resume: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether the run has trained its last step."""
        return _state(self.run) == "finished"

    @property
    def command(self) -> tuple[str, ...]:
        """What continues it, or begins it where it is not there."""
        return self.begin if _state(self.run) is None else self.resume


@dataclass(frozen=True)
class Scoring:
    """A command whose JSON document becomes a file of the run folder."""

    run: Path
    command: tuple[str, ...]
    output: Path

    @property
    def done(self) -> bool:
        """Whether the score is there."""
        return self.output.is_file()


Stage = Training | Scoring


@dataclass(frozen=True)
class Chain:
    """The stages of one depth and seed; they run one after another, chains side by side."""

    name: str
    stages: tuple[Stage, ...]

    def next_stage(self) -> Stage | None:
        """The first stage that is not done; None once all are, or once a training has diverged."""
        for stage in self.stages:
            if (stage.run / DIVERGED).is_file():
                return None
            if not stage.done:
                return stage
        return None


def build_chains(study: Study, cells: Sequence[Cell], num_processes: int) -> tuple[Chain, ...]:
    """One chain for each depth and seed (and rate tried)."""
    groups: dict[tuple[int, int, bool, float], list[Cell]] = {}
    for cell in cells:
        key = (cell.depth, cell.seed, cell.tuning, cell.learning_rate if cell.tuning else 0.0)
        groups.setdefault(key, []).append(cell)
    chains = []
    for group in groups.values():
        stages: list[Stage] = []
        for cell in group:
            stages += _stages(study, cell, num_processes)
        chains.append(Chain(group[0].name, tuple(stages)))
    return tuple(chains)


def write_configs(study: Study, cells: Sequence[Cell]) -> None:
    """Write the configurations that the chains of these cells read."""
    for cell in cells:
        document = cell.config.model_dump(mode="json", exclude_none=True)
        replace_text(study.config_path(cell), tomli_w.dumps(document))


def _stages(study: Study, cell: Cell, num_processes: int) -> list[Stage]:
    run, nproc = study.run_path(cell.name), ("--nproc", str(num_processes))
    begin = _fpm("pretrain", "--out", str(run), *nproc)
    if cell.trunk:
        begin += ("--decay-from", f"{study.run_path(cell.trunk)}@{cell.trunk_step}")
    else:
        proxy = ("--proxy",) if cell.config.proxy else ()
        begin += ("--preset", cell.config.name, *proxy, "--corpus", str(study.corpus_path))
    begin += ("--config", str(study.config_path(cell)))
    resume = _fpm("pretrain", "--resume", "--out", str(run), *nproc)
    evaluate = _fpm("evaluate", "lm", str(run), "--json")
    stages: list[Stage] = [Training(run, begin, resume), Scoring(run, evaluate, run / LM_SCORE)]
    task = study.settings.task
    if task and not cell.tuning:
        tuned = study.task_run_path(cell)
        files = [flag for path in task.train_files for flag in ("--train", path)]
        settings = [
            flag for text in (f"train.seed={cell.seed}", *task.assignments) for flag in ("--set", text)
        ]
        begin = _fpm("finetune", task.name, "--from", str(run), "--out", str(tuned), *nproc)
        begin += (*files, "--dev", task.dev_file, *settings)
        resume = _fpm("finetune", "--resume", "--out", str(tuned), *nproc)
        evaluate = (
            *FPM,
            "evaluate",
            task.name,
            str(tuned),
            "--input",
            task.dev_file,
            "--split",
            "dev",
            "--json",
        )
        stages += [Training(tuned, begin, resume), Scoring(tuned, evaluate, tuned / TASK_SCORE)]
    return stages


def _fpm(*arguments: str) -> tuple[str, ...]:
    return (*FPM, *arguments)


def _state(run: Path) -> str | None:
    """The state in the run's manifest; None where there is no run that can be continued."""
    try:
        return str(Run.open(run).manifest().state)
    except FpmError:
        return None
