"""The statistics of depth studies against scipy, and their error rates in simulated studies."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fpm_cli.study.comparison import (
    DepthComparison,
    compare_depths,
    critical_value,
    example_variance,
    seeds_needed,
    win_probability,
)

STUDIES = 1000


def simulated(rng: np.random.Generator, num_seeds: int, means: list[float]) -> DepthComparison:
    """A study with seed effects as large as the residuals, whose standard deviation is 1."""
    scores = rng.normal(size=(num_seeds, 1)) + rng.normal(size=(num_seeds, len(means))) + np.array(means)
    return compare_depths(range(len(means)), scores)


@pytest.mark.parametrize(("others", "df"), [(2, 10), (4, math.inf), (5, 4), (5, 10), (8, 20)])
def test_critical_value_is_dunnetts_quantile(others: int, df: float) -> None:
    critical = critical_value(others + 1, df)
    covariance = 0.5 * np.eye(others) + 0.5
    if math.isinf(df):
        distribution = stats.multivariate_normal(np.zeros(others), covariance, seed=1)
        probability = distribution.cdf(np.full(others, critical))
    else:
        distribution = stats.multivariate_t(np.zeros(others), covariance, df=df, seed=1)
        probability = distribution.cdf(np.full(others, critical), maxpts=50_000)
    assert probability == pytest.approx(0.95, abs=2e-4)


@pytest.mark.parametrize("df", [2, 5, 30])
def test_two_depths_are_compared_by_a_two_sided_t_test(df: int) -> None:
    assert critical_value(2, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-4)


def test_difference_of_two_depths_is_scipys_paired_t_interval() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        scores = rng.normal(size=(6, 2))
        ours = compare_depths((4, 8), scores).difference(0, 1)
        theirs = stats.ttest_rel(scores[:, 0], scores[:, 1]).confidence_interval(0.95)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_residual_std_is_that_of_least_squares_with_seed_and_depth_effects() -> None:
    rng = np.random.default_rng(6)
    for num_seeds, num_depths in [(3, 6), (5, 2), (10, 4)]:
        scores = rng.normal(size=(num_seeds, num_depths))
        seed, depth = np.indices(scores.shape)
        design = np.concatenate(
            [np.eye(num_seeds)[seed.ravel()], np.eye(num_depths)[depth.ravel()][:, 1:]], axis=1
        )
        residual = scores.ravel() - design @ np.linalg.lstsq(design, scores.ravel(), rcond=None)[0]
        df = scores.size - np.linalg.matrix_rank(design)
        ours = compare_depths(range(num_depths), scores)
        assert ours.df == df
        assert ours.residual_std == pytest.approx(math.sqrt(residual @ residual / df), rel=1e-9)


def test_win_probability_agrees_with_simulation() -> None:
    rng = np.random.default_rng(7)
    shifts, critical, df = [1.0, 3.0, 4.0], 2.3, 6
    draws = 200_000
    means = rng.normal(size=(draws, 4)) + np.array([4.0, 3.0, 1.0, 0.0])
    deviation = np.sqrt(rng.chisquare(df, size=draws) / df)
    margin = critical * math.sqrt(2) * deviation
    wins = (means[:, :1] - means[:, 1:] > margin[:, None]).all(axis=1).mean()
    assert win_probability(shifts, critical, df) == pytest.approx(wins, abs=4e-3)


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize("num_depths", [3, 6])
def test_equal_depths_rarely_have_a_single_winner(num_seeds: int, num_depths: int) -> None:
    rng = np.random.default_rng(num_seeds * 100 + num_depths)
    winners = sum(len(simulated(rng, num_seeds, [0.0] * num_depths).best_set()) == 1 for _ in range(STUDIES))
    assert winners <= 0.05 * STUDIES


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_the_best_depth_stays_in_the_set(num_seeds: int) -> None:
    rng = np.random.default_rng(num_seeds)
    means = [0.3, 0.2, 0.0, -1.0]
    kept = sum(0 in simulated(rng, num_seeds, means).best_set() for _ in range(STUDIES))
    assert kept >= 0.93 * STUDIES


def test_planted_optimum_is_found_with_the_seeds_that_the_power_calculation_asks_for() -> None:
    rng = np.random.default_rng(8)
    for deficit in (4 * math.sqrt(2 / 3), 1.0):  # four standard errors of a difference at three seeds
        needed = seeds_needed([deficit] * 5, 1.0, 6)
        assert needed is not None
        found = sum(
            simulated(rng, needed, [deficit, 0, 0, 0, 0, 0]).best_set() == (0,) for _ in range(STUDIES)
        )
        fewer = sum(
            simulated(rng, needed // 2, [deficit, 0, 0, 0, 0, 0]).best_set() == (0,) for _ in range(STUDIES)
        )
        assert found >= 0.88 * STUDIES > fewer  # 0.9, less two standard errors of the simulation


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_intervals_of_a_difference_cover_the_truth(num_seeds: int) -> None:
    rng = np.random.default_rng(40 + num_seeds)
    covered = 0
    for _ in range(STUDIES):
        difference = simulated(rng, num_seeds, [0.7, 0.0, 0.1, 0.2]).difference(0, 1)
        covered += difference.low <= 0.7 <= difference.high
    assert 0.93 * STUDIES <= covered <= 0.97 * STUDIES


@pytest.mark.parametrize("num_seeds", [3, 10])
def test_intervals_of_task_scores_cover_the_truth_over_seeds_and_examples(num_seeds: int) -> None:
    rng = np.random.default_rng(50 + num_seeds)
    num_examples, covered = 150, 0
    for _ in range(STUDIES):
        shared = rng.normal(size=(3, num_examples)) * 0.6  # what each depth makes of each example
        seeds = rng.normal(size=(num_seeds, 3, 1)) * 0.05
        noise = rng.normal(size=(num_seeds, 3, num_examples)) * 0.5
        examples = shared + seeds + noise + np.array([0.2, 0.0, 0.1])[:, None]
        difference = compare_depths((1, 2, 3), examples.mean(axis=2), examples).difference(0, 1)
        covered += difference.low <= 0.2 <= difference.high
    assert 0.93 * STUDIES <= covered <= 0.97 * STUDIES


def test_example_variance_agrees_with_a_two_level_bootstrap_of_many_seeds() -> None:
    rng = np.random.default_rng(9)
    num_seeds, num_examples = 60, 400
    differences = (
        rng.normal(size=num_examples)
        + rng.normal(size=(num_seeds, 1)) * 0.1
        + rng.normal(size=(num_seeds, num_examples))
    )
    resampled = [
        differences[
            np.ix_(rng.integers(num_seeds, size=num_seeds), rng.integers(num_examples, size=num_examples))
        ].mean()
        for _ in range(2000)
    ]
    of_seeds = differences.mean(axis=1).var(ddof=1) / num_seeds
    assert math.sqrt(of_seeds + example_variance(differences)) == pytest.approx(np.std(resampled), rel=0.06)


def test_one_seed_tells_no_depths_apart() -> None:
    assert compare_depths((2, 4, 8), [[0.1, 0.9, 0.5]]).best_set() == (2, 4, 8)


def test_no_number_of_seeds_makes_up_for_too_few_examples() -> None:
    assert seeds_needed([0.5], 0.1, 2, shared_variance=0.25) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=2, max_size=6),
    st.floats(0.1, 100),
    st.floats(-100, 100),
)
def test_the_set_does_not_depend_on_the_unit_of_the_score(
    rows: list[list[float]], scale: float, shift: float
) -> None:
    scores = np.round(np.array(rows), 3)
    plain, scaled = compare_depths((1, 2, 3), scores), compare_depths((1, 2, 3), scores * scale + shift)
    if plain.residual_std > 1e-6:
        assert set(plain.best_set()) == set(scaled.best_set())
