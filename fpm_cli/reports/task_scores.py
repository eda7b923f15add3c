"""Scores of a fine-tuned run from the predictions that `fpm evaluate` left in its folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fpm_cli.errors import DamagedError
from fpm_cli.reports.run_facts import RunFacts
from fpm_cli.tasks.definition import TaskDefinition, load_task
from fpm_cli.tasks.evaluate import Predicted, compare_task, score_task
from fpm_cli.tasks.scores import Difference, Scores

TASK_FILE = "task.toml"


@dataclass(frozen=True)
class StoredPredictions:
    """The labelled rows of a predictions file: values, or classes as indices into the task's labels."""

    ids: tuple[str, ...]
    labels: Predicted  # (n,)
    predicted: Predicted  # (n,)


def run_task(run: RunFacts) -> TaskDefinition | None:
    """The task of a fine-tuned run, as the run keeps it."""
    if run.task is None:
        return None
    own = run.path / TASK_FILE
    return load_task(str(own) if own.is_file() else run.task)


def read_predictions(path: Path, task: TaskDefinition) -> StoredPredictions:
    """Read `predictions-SPLIT.jsonl`.

    Raises:
        DamagedError: it is not what `fpm evaluate` writes.
    """
    classes = {label: index for index, label in enumerate(task.labels)}
    number = float if task.is_regression else classes.__getitem__
    ids, labels, predicted = [], [], []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["label"] is not None:
                ids.append(str(row["id"]))
                labels.append(number(row["label"]))
                predicted.append(number(row["prediction"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: not predictions of {task.name}: {error!r}") from error
    if task.is_regression:
        return StoredPredictions(tuple(ids), np.asarray(labels, float), np.asarray(predicted, float))
    return StoredPredictions(tuple(ids), np.asarray(labels, np.int64), np.asarray(predicted, np.int64))


def task_scores(run: RunFacts) -> dict[str, Scores]:
    """The run's scores on each split that was evaluated, with bootstrap intervals."""
    task = run_task(run)
    if task is None:
        return {}
    stored = {split: read_predictions(path, task) for split, path in run.predictions.items()}
    return {
        split: score_task(task, rows.labels, rows.predicted)
        for split, rows in stored.items()
        if len(rows.labels)
    }


def paired_differences(run: RunFacts, other: RunFacts) -> dict[str, dict[str, Difference]]:
    """By split, the run's scores minus the other's on the same examples, by a paired bootstrap.

    Splits of which the two runs predicted different examples are left out.
    """
    task = run_task(run)
    if task is None or run.task != other.task:
        return {}
    differences = {}
    for split in run.predictions.keys() & other.predictions.keys():
        ours = read_predictions(run.predictions[split], task)
        theirs = read_predictions(other.predictions[split], task)
        if ours.ids == theirs.ids and len(ours.ids) and bool((ours.labels == theirs.labels).all()):
            differences[split] = compare_task(task, ours.labels, ours.predicted, theirs.predicted)
    return differences
