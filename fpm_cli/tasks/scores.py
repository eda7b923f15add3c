"""Classification scores from a confusion matrix, with bootstrap intervals, and paired comparisons.

Every score is a function of the confusion matrix alone, and drawing n examples with replacement draws
the matrix's cells from a multinomial distribution, so that the bootstrap needs no loop over examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

RESAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
_CHUNK_CELLS = 4_000_000  # cells of resampled matrices in memory at a time


@dataclass(frozen=True)
class Scores:
    """Metrics of one set of predictions, as fractions.

    Of classification: accuracy; `f1_positive`, GLUE's F1 of the positive class, where there are two; macro
    precision, recall and F1, unweighted means over the classes that occur, as in scikit-learn and in the
    paper's Table 3; `matthews`, Matthews' correlation. Of regression: `pearson` and `spearman`.
    `ci95` holds each metric's bootstrap interval, `draws` its value in each resample; `confusion[i][j]`
    counts class i predicted as class j, and is None for regression.
    """

    num_examples: int
    metrics: Mapping[str, float]
    ci95: Mapping[str, tuple[float, float]]
    confusion: tuple[tuple[int, ...], ...] | None
    draws: Mapping[str, Values] = field(repr=False, compare=False, default_factory=dict)

    @property
    def headline(self) -> str:
        """The metric that is named first: accuracy, or Pearson's correlation."""
        return "accuracy" if "accuracy" in self.metrics else "pearson"


@dataclass(frozen=True)
class Difference:
    """How much one run's score is above another's on the same examples.

    `p_value` is two-sided: twice the fraction of resamples whose difference has the other sign or is 0.
    """

    difference: float
    ci95: tuple[float, float]
    p_value: float


def confusion_matrix(labels: Counts, predictions: Counts, num_classes: int) -> Counts:
    """Count class i predicted as class j.

    Args:
        labels, predictions: classes, (n,).
        num_classes: how many there are.

    Returns:
        (num_classes, num_classes)
    """
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def scores_from_confusion(confusion: Counts, positive_class: int | None) -> dict[str, Values]:
    """Each score of each confusion matrix; a ratio of 0 to 0 is 0.

    Args:
        confusion: (..., k, k).
        positive_class: the class of `f1_positive`, which is left out where this is None.

    Returns:
        by name: (...)
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)  # (..., k)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    f1 = _ratio(2 * right, true + predicted)
    occurs = (true + predicted) > 0  # scikit-learn's labels: those among the labels or the predictions
    scores = {"accuracy": _ratio(right.sum(-1), confusion.sum((-2, -1)))}
    if positive_class is not None:
        scores["f1_positive"] = f1[..., positive_class]
    scores["matthews"] = _matthews(confusion)
    per_class = {"precision": _ratio(right, predicted), "recall": _ratio(right, true), "f1": f1}
    return scores | {
        f"{name}_macro": _ratio(each.sum(-1), occurs.sum(-1)) for name, each in per_class.items()
    }


def score(
    labels: Counts, predictions: Counts, num_classes: int, positive_class: int | None, *, seed: int = SEED
) -> Scores:
    """Score predictions, with bootstrap 95 % intervals.

    Args:
        labels, predictions: classes, (n,), n >= 1.
        num_classes: how many there are.
        positive_class: the class of `f1_positive`; None where there are more than two.
        seed: of the bootstrap.
    """
    confusion = confusion_matrix(labels, predictions, num_classes)
    exact = {name: float(value) for name, value in scores_from_confusion(confusion, positive_class).items()}
    (draws,) = _resample(labels, [predictions], num_classes, positive_class, seed)
    cells = tuple(tuple(map(int, row)) for row in confusion)
    return Scores(
        len(labels), exact, {name: interval(values) for name, values in draws.items()}, cells, draws
    )


def compare(
    labels: Counts,
    predictions: Counts,
    others: Counts,
    num_classes: int,
    positive_class: int | None,
    *,
    seed: int = SEED,
) -> dict[str, Difference]:
    """Compare two runs on the same examples by a paired bootstrap: each resample scores both.

    Args:
        labels, predictions, others: classes, those of one run and of another, (n,), n >= 1.
        num_classes, positive_class, seed: as in `score`.

    Returns:
        by score: the first run's minus the other's.
    """
    ours, theirs = (
        scores_from_confusion(confusion_matrix(labels, each, num_classes), positive_class)
        for each in (predictions, others)
    )
    draws, other_draws = _resample(labels, [predictions, others], num_classes, positive_class, seed)
    return {
        name: paired_difference(float(value - theirs[name]), draws[name] - other_draws[name])
        for name, value in ours.items()
    }


def paired_difference(difference: float, draws: Values) -> Difference:
    """A difference with the interval and the p-value that its values in the resamples give."""
    tail = min(np.mean(draws <= 0), np.mean(draws >= 0))
    return Difference(difference, interval(draws), min(1.0, 2 * max(float(tail), 1 / len(draws))))


def _resample(
    labels: Counts, runs: Sequence[Counts], num_classes: int, positive_class: int | None, seed: int
) -> list[dict[str, Values]]:
    """Each run's scores in each of RESAMPLES draws of the same examples: by name, (RESAMPLES,)."""
    joint = np.stack(
        [labels * num_classes + predicted for predicted in runs]
    )  # (runs, n): the cell of each example
    cells, counts = np.unique(joint, axis=1, return_counts=True)  # (runs, c), (c,)
    placed = np.eye(num_classes**2)[cells]  # (runs, c, k * k)
    generator = np.random.default_rng(seed)
    rows = max(1, min(RESAMPLES, _CHUNK_CELLS // len(counts)))
    parts: list[list[dict[str, Values]]] = []
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        drawn = generator.multinomial(len(labels), counts / len(labels), size=size)  # (size, c)
        matrices = (drawn @ placed).reshape(len(runs), size, num_classes, num_classes).astype(np.int64)
        parts.append([scores_from_confusion(each, positive_class) for each in matrices])
    return [
        {name: np.concatenate([part[run][name] for part in parts]) for name in parts[0][run]}
        for run in range(len(runs))
    ]


def interval(draws: Values) -> tuple[float, float]:
    """The 95 % percentile interval of a metric's values in the resamples."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return float(low), float(high)


def _matthews(confusion: NDArray[Any]) -> Values:
    """Matthews' correlation coefficient for any number of classes (Gorodkin 2004); 0 where undefined."""
    confusion = confusion.astype(float)
    total, right = confusion.sum((-2, -1)), np.trace(confusion, axis1=-2, axis2=-1)  # (...)
    true, predicted = confusion.sum(-1), confusion.sum(-2)  # (..., k)
    covariance = right * total - (true * predicted).sum(-1)
    variances = (total**2 - (true**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    return np.asarray(np.where(variances > 0, covariance / np.sqrt(np.maximum(variances, 1)), 0.0))


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Values:
    return np.asarray(numerator / np.maximum(denominator, 1), dtype=float)  # counts: a numerator over 0 is 0
