"""Scores the fine-tuned runs of a suite, and averages them as its leaderboard does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fpm_cli.errors import MissingError, UsageError
from fpm_cli.runs.run import Run
from fpm_cli.tasks.evaluate import EvaluationRequest, evaluate
from fpm_cli.tasks.predictions import PredictFunction
from fpm_cli.tasks.report import TaskReport
from fpm_cli.tasks.scores import SEED, Scores, Values, interval
from fpm_cli.tasks.suite import Suite, SuiteTask
from fpm_cli.tasks.task_run import TASK_FILE, TaskRun, open_task_run


@dataclass(frozen=True)
class TaskScore:
    """A task's score in the suite: the mean of its leaderboard's metrics, as a fraction."""

    score: float
    ci95: tuple[float, float]
    draws: Values


@dataclass(frozen=True)
class SuiteReport:
    """The reports of the tasks that were scored, and the average over them.

    `average` is over the groups of `groups_scored` of `groups`; it is the leaderboard's only if all are.
    """

    suite: Suite
    reports: Mapping[str, TaskReport]
    missing: Mapping[str, str]  # by task, why there is no score
    scores: Mapping[str, TaskScore]
    average: float | None
    ci95: tuple[float, float] | None
    groups_scored: int
    groups: int

    def document(self) -> dict[str, Any]:
        """The document for `--json`."""
        return {
            "suite": self.suite.name,
            "average": self.average,
            "ci95": list(self.ci95) if self.ci95 else None,
            "tasks_scored": self.groups_scored,
            "tasks_counted": self.groups,
            "scores": {
                name: {"score": each.score, "ci95": list(each.ci95)} for name, each in self.scores.items()
            },
            "tasks": {name: report.document() for name, report in self.reports.items()},
            "missing": dict(self.missing),
        }


def evaluate_suite(
    suite: Suite,
    paths: Sequence[Path],
    predict: PredictFunction,
    *,
    data: Path | None = None,
    submission: Path | None = None,
) -> SuiteReport:
    """Score runs on the dev files of their tasks.

    Args:
        suite: the tasks.
        paths: fine-tuned runs, or folders of such runs as `fpm finetune glue` makes them.
        predict: gives the outputs of a run.
        data: the suite's folder; None: the files beside each run's dev set.
        submission: the folder for the official files, predicted from the test files.

    Raises:
        UsageError: a run is of no task of the suite, or two are of the same task.
        MissingError: a path holds no fine-tuned run.
    """
    runs = _runs_by_task(suite, paths)
    reports: dict[str, TaskReport] = {}
    missing: dict[str, str] = {}
    for entry in suite.tasks:
        task = entry.definition()
        run = runs.get(task.name) or runs.get(task.predicted_by or "")
        if run is None:
            missing[entry.task] = "no run was given"
            continue
        if submission is not None and (test := _file(entry, entry.test, run, data)):
            evaluate(task, run, EvaluationRequest(file=test, submission=submission), predict)
        dev = _file(entry, entry.dev, run, data)
        if dev is None:
            missing[entry.task] = "no dev file was found"
            continue
        split = "dev" if run.task.name == task.name else f"{task.name}-dev"
        reports[entry.task] = evaluate(task, run, EvaluationRequest(file=dev, split=split), predict)
    return summarise(suite, reports, missing)


def summarise(suite: Suite, reports: Mapping[str, TaskReport], missing: Mapping[str, str]) -> SuiteReport:
    """Average the reports; the interval takes the tasks' resamples as independent."""
    scores = {
        name: task_score(report.scores, report.task.metrics)
        for name, report in reports.items()
        if report.scores is not None
    }
    groups: dict[str, list[str]] = {}
    for entry in suite.tasks:
        if entry.counted:
            groups.setdefault(entry.group or entry.task, []).append(entry.task)
    scored = [names for names in groups.values() if all(name in scores for name in names)]
    if not scored:
        return SuiteReport(suite, reports, missing, scores, None, None, 0, len(groups))
    average = float(np.mean([np.mean([scores[name].score for name in names]) for names in scored]))
    size = min(len(scores[name].draws) for names in scored for name in names)
    generator = np.random.default_rng(SEED)
    draws = np.mean(
        [
            np.mean([generator.permutation(scores[name].draws)[:size] for name in names], axis=0)
            for names in scored
        ],
        axis=0,
    )
    return SuiteReport(suite, reports, missing, scores, average, interval(draws), len(scored), len(groups))


def task_score(scores: Scores, metrics: Sequence[str]) -> TaskScore:
    """The mean of a task's metrics, with the interval of that mean."""
    draws = np.mean([scores.draws[name] for name in metrics], axis=0)
    return TaskScore(float(np.mean([scores.metrics[name] for name in metrics])), interval(draws), draws)


def _runs_by_task(suite: Suite, paths: Sequence[Path]) -> dict[str, TaskRun]:
    known = {entry.definition().predicted_by or entry.task for entry in suite.tasks}
    runs: dict[str, TaskRun] = {}
    for folder in (folder for path in paths for folder in _run_folders(path)):
        task = Run.open(folder).manifest().task
        if task is None or task.name not in known:
            raise UsageError(f"{folder} is of no task of {suite.name}: {', '.join(sorted(known))}")
        if task.name in runs:
            raise UsageError(f"{folder} and {runs[task.name].run.path} are both of {task.name}; name one")
        runs[task.name] = open_task_run(folder, task.name)
    return runs


def _run_folders(path: Path) -> list[Path]:
    if (path / TASK_FILE).is_file():
        return [path]
    folders = sorted(file.parent for file in path.glob(f"*/{TASK_FILE}"))
    if not folders:
        raise MissingError(f"{path}: neither a fine-tuned run nor a folder of such runs")
    return folders


def _file(entry: SuiteTask, names: tuple[str, ...], run: TaskRun, data: Path | None) -> Path | None:
    """A file of the task in the suite's folder, or beside the run's dev set."""
    if data is not None:
        return entry.find(data, names)
    if run.dev_file is None:
        return None
    beside = (run.dev_file.parent / name for name in names)
    found = next((path for path in beside if path.is_file()), None)
    is_own = run.task.name == entry.task and names == entry.dev
    return run.dev_file if found is None and is_own else found
