"""Correlations against scipy's, and their intervals against scipy's bootstrap."""

import warnings

import numpy as np
import pytest
from scipy.stats import ConstantInputWarning, bootstrap, pearsonr, spearmanr

from fpm_cli.tasks.correlation import compare_values, correlations, score_values
from fpm_cli.tasks.scores import Values


def random_case(seed: int) -> tuple[Values, Values]:
    """Values as STS-B has them, with ties, and predictions that follow them more or less."""
    generator = np.random.default_rng(seed)
    n = int(generator.integers(2, 300))
    values = np.round(generator.uniform(0, 5, n) * generator.choice([1, 2, 5])) / generator.choice([1, 2, 5])
    predictions = values + generator.normal(0, generator.uniform(0.01, 5), n)
    return values, np.round(predictions, int(generator.integers(0, 4)))


def test_a_thousand_random_cases_correlate_as_in_scipy() -> None:
    for seed in range(1000):
        values, predictions = random_case(seed)
        ours = correlations(values, predictions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            expected = {
                "pearson": pearsonr(values, predictions).statistic,
                "spearman": spearmanr(values, predictions).statistic,
            }
        for name, value in expected.items():
            assert ours[name] == pytest.approx(0.0 if np.isnan(value) else value, abs=1e-9), (seed, name)


def test_intervals_are_those_of_a_bootstrap_over_examples() -> None:
    values, predictions = random_case(4)
    scores = score_values(values, predictions)

    def pearson(indices: np.ndarray) -> float:
        return float(pearsonr(values[indices], predictions[indices]).statistic)

    other = bootstrap(
        (np.arange(len(values)),),
        pearson,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert scores.ci95["pearson"] == pytest.approx((other.low, other.high), abs=0.02)
    assert scores.confusion is None and scores.num_examples == len(values)


def test_a_run_that_follows_the_values_more_closely_is_better() -> None:
    generator = np.random.default_rng(0)
    values = generator.uniform(0, 5, 500)
    close, far = (values + generator.normal(0, noise, 500) for noise in (0.5, 3.0))
    for difference in compare_values(values, close, far).values():
        assert difference.ci95[0] > 0 and difference.p_value < 0.01
    for difference in compare_values(values, close, close).values():
        assert difference.difference == 0 and difference.p_value == 1.0
