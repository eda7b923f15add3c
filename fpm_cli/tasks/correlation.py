"""Scores of regression tasks: Pearson's and Spearman's correlation, with bootstrap intervals."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fpm_cli.tasks.scores import SEED, Difference, Scores, Values, interval, paired_difference

RESAMPLES = 2_000  # fewer than for classification, where a resample costs a confusion matrix only
_CHUNK_VALUES = 2_000_000  # resampled values in memory at a time


def correlations(values: Values, predictions: Values) -> dict[str, Values]:
    """Pearson's and Spearman's correlation along the last axis; 0 where one side is constant.

    Args:
        values, predictions: (..., n).

    Returns:
        by name: (...)
    """
    ranks = (rankdata(each, axis=-1) for each in (values, predictions))
    return {"pearson": _pearson(values, predictions), "spearman": _pearson(*ranks)}


def score_values(values: Values, predictions: Values, *, seed: int = SEED) -> Scores:
    """Score predicted numbers, with bootstrap 95 % intervals.

    Args:
        values, predictions: (n,), n >= 1.
        seed: of the bootstrap.
    """
    exact = {name: float(value) for name, value in correlations(values, predictions).items()}
    (draws,) = _resample(values, [predictions], seed)
    return Scores(len(values), exact, {name: interval(each) for name, each in draws.items()}, None, draws)


def compare_values(
    values: Values, predictions: Values, others: Values, *, seed: int = SEED
) -> dict[str, Difference]:
    """Compare two sets of predictions by a paired bootstrap; by score, the first minus the other."""
    ours, theirs = correlations(values, predictions), correlations(values, others)
    draws, other_draws = _resample(values, [predictions, others], seed)
    return {
        name: paired_difference(float(ours[name] - theirs[name]), draws[name] - other_draws[name])
        for name in ours
    }


def _resample(values: Values, runs: list[Values], seed: int) -> list[Mapping[str, Values]]:
    """Each run's scores in each of RESAMPLES draws of the same examples: by name, (RESAMPLES,)."""
    generator = np.random.default_rng(seed)
    rows = max(1, min(RESAMPLES, _CHUNK_VALUES // len(values)))
    parts: list[list[dict[str, Values]]] = []
    for start in range(0, RESAMPLES, rows):
        size = (min(rows, RESAMPLES - start), len(values))
        chosen = generator.integers(len(values), size=size)
        parts.append([correlations(values[chosen], run[chosen]) for run in runs])
    return [
        {name: np.concatenate([part[run][name] for part in parts]) for name in parts[0][run]}
        for run in range(len(runs))
    ]


def _pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> Values:
    one = one - one.mean(-1, keepdims=True)
    other = other - other.mean(-1, keepdims=True)
    norms = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    products = (one * other).sum(-1)
    return np.asarray(np.where(norms > 0, products / np.where(norms > 0, norms, 1.0), 0.0))
