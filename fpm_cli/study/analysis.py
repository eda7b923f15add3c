"""From a study's rows to comparisons: one for each horizon and score, with its verdict and its curve."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpm_cli.errors import DamagedError
from fpm_cli.study.comparison import DepthComparison, compare_depths
from fpm_cli.study.curve import DepthCurve, fit_curve
from fpm_cli.study.results import ResultRow
from fpm_cli.study.settings import TaskScore
from fpm_cli.study.study import Study
from fpm_cli.study.verdict import Verdict, give_verdict
from fpm_cli.tasks.definition import load_task

PREDICTIONS = "predictions-dev.jsonl"
NO_PREDICTIONS = "the error of the evaluation examples, whose predictions are not in an archived study"
LANGUAGE_MODEL = {"gpt": "bits per byte", "bert": "masked loss, nats", "encdec": "target loss, nats"}


@dataclass(frozen=True)
class ScoreAnalysis:
    """One score at one horizon over the depths whose seeds are all there."""

    score: str
    horizon: float
    lower_is_better: bool
    comparison: DepthComparison | None  # oriented so that higher is better; None: no depth is complete
    verdict: Verdict | None
    curve: DepthCurve | None
    incomplete: tuple[str, ...]  # what is left out, and why

    @property
    def sign(self) -> float:
        """Multiplies the comparison's scores into the unit of `score`."""
        return -1.0 if self.lower_is_better else 1.0


def analyse(study: Study, rows: Sequence[ResultRow]) -> list[ScoreAnalysis]:
    """Analyse every score of a study at every horizon.

    Raises:
        DamagedError: a predictions file is not what `fpm evaluate` writes.
    """
    settings = study.settings
    analyses = []
    for horizon in settings.horizons:
        here = [row for row in rows if row.horizon == horizon and not row.tuning]
        name = LANGUAGE_MODEL[settings.reference_config.family]
        losses = {(row.depth, row.seed): row.language_model_score for row in here}
        analyses.append(_analyse(study, here, name, horizon, losses))
        if task := settings.task:
            scores = {
                (row.depth, row.seed): row.task_scores.get(task.score) if row.task_scores else None
                for row in here
            }
            analyses.append(_analyse(study, here, f"{task.name} {task.score}", horizon, scores, of_task=True))
    return analyses


def best_learning_rates(rows: Sequence[ResultRow]) -> dict[int, float]:
    """The rate of the lowest loss of those tried at each depth."""
    best: dict[int, ResultRow] = {}
    for row in rows:
        if (
            row.tuning
            and row.loss is not None
            and (row.depth not in best or row.loss < (best[row.depth].loss or 0))
        ):
            best[row.depth] = row
    return {depth: row.learning_rate for depth, row in best.items()}


def example_scores(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], score: TaskScore, positive: int = 1
) -> npt.NDArray[np.float64]:
    """Each example's share of a score, (n,): correctness for accuracy, jackknife pseudo-values for F1.

    `positive` is the class of `f1_positive`. Their mean is the score (to 1/n for F1), and their variance over
    n is that of the score over examples.
    """
    if score == "accuracy":
        return np.asarray(labels == predictions, dtype=np.float64)
    classes = (positive,) if score == "f1_positive" else tuple(range(int(labels.max()) + 1))
    values = [_f1_pseudo_values(labels == c, predictions == c) for c in classes]
    return np.asarray(np.mean(values, axis=0), dtype=np.float64)


def _f1_pseudo_values(truth: npt.NDArray[np.bool_], guess: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    n, hits, sizes = len(truth), truth & guess, truth.astype(np.int64) + guess
    whole = 2 * hits.sum() / max(1, sizes.sum())
    without = 2 * (hits.sum() - hits) / np.maximum(1, sizes.sum() - sizes)
    values: npt.NDArray[np.float64] = n * whole - (n - 1) * without
    return values


def _analyse(
    study: Study,
    rows: Sequence[ResultRow],
    name: str,
    horizon: float,
    scores: dict[tuple[int, int], float | None],
    *,
    of_task: bool = False,
) -> ScoreAnalysis:
    """Losses are better lower, a task's scores higher."""
    lower_is_better = not of_task
    seeds = study.settings.seeds
    complete, incomplete = [], []
    for depth in study.settings.depths:
        missing = [seed for seed in seeds if scores.get((depth, seed)) is None]
        here = [row for row in rows if row.depth == depth]
        diverged = sum(row.diverged or (of_task and row.task_diverged) for row in here)
        if not missing:
            complete.append(depth)
        elif diverged:
            incomplete.append(f"{depth} layers: {diverged} of {len(seeds)} seeds diverged")
        else:
            incomplete.append(f"{depth} layers: {len(seeds) - len(missing)} of {len(seeds)} seeds are scored")
    if not complete:
        return ScoreAnalysis(name, horizon, lower_is_better, None, None, None, tuple(incomplete))
    sign = -1.0 if lower_is_better else 1.0
    matrix = sign * np.array(
        [[scores[depth, seed] for depth in complete] for seed in seeds], dtype=np.float64
    )
    examples = None
    if of_task and study.is_archived:
        incomplete.append(NO_PREDICTIONS)
    elif of_task:
        examples = _examples(study, rows, complete)
    comparison = compare_depths(complete, matrix, examples)
    return ScoreAnalysis(
        name,
        horizon,
        lower_is_better,
        comparison,
        give_verdict(comparison),
        fit_curve(comparison),
        tuple(incomplete),
    )


def _examples(study: Study, rows: Sequence[ResultRow], depths: Sequence[int]) -> npt.NDArray[np.float64]:
    """The score of each evaluation example, (num_seeds, num_depths, num_examples)."""
    settings = study.settings.task
    assert settings
    task = load_task(settings.name)
    by_cell = {(row.depth, row.seed): row.run for row in rows}

    def scores(depth: int, seed: int) -> npt.NDArray[np.float64]:
        path = study.run_path(f"{by_cell[depth, seed]}-task") / PREDICTIONS
        labels, predictions = read_predictions(path, task.labels)
        return example_scores(labels, predictions, settings.score, task.positive_class or 0)

    return np.array([[scores(depth, seed) for depth in depths] for seed in study.settings.seeds])


def read_predictions(path: Path, names: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Labels and predictions (n,) as places in `names`, from the file that `fpm evaluate` writes.

    Raises:
        DamagedError: it is not such a file.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers[row["label"]] for row in rows], dtype=np.int64)
        predictions = np.array([numbers[row["prediction"]] for row in rows], dtype=np.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: not predictions of `fpm evaluate`: {error!r}") from error
    return labels, predictions
