"""The parabola through depth scores: known optima, coverage of its interval, and its test of fit."""

import numpy as np
import pytest
from scipy import stats

from fpm_cli.study.comparison import compare_depths
from fpm_cli.study.curve import fit_curve

DEPTHS = (2, 6, 12, 24, 48, 90)


def parabola(optimum: float, curvature: float = 0.02) -> np.ndarray:
    return -curvature * (np.log(DEPTHS) - np.log(optimum)) ** 2


def test_the_optimum_of_exact_scores_is_found() -> None:
    curve = fit_curve(compare_depths(DEPTHS, [parabola(17.0)]))
    assert curve is not None and curve.optimum == pytest.approx(17.0)
    assert curve.score(17.0) == pytest.approx(0.0, abs=1e-12)


def test_its_interval_covers_the_optimum_in_95_percent_of_studies() -> None:
    rng = np.random.default_rng(1)
    covered = bounded = 0
    for _ in range(1000):
        scores = parabola(24.0) + rng.normal(size=(3, 1)) + rng.normal(size=(3, 6)) * 0.01
        curve = fit_curve(compare_depths(DEPTHS, scores))
        assert curve is not None
        if curve.low is not None and curve.high is not None:
            bounded += 1
            covered += curve.low <= 24.0 <= curve.high
    assert bounded > 950
    assert 0.93 <= covered / bounded <= 0.97


def test_flat_scores_give_no_bounded_interval() -> None:
    rng = np.random.default_rng(2)
    curves = [fit_curve(compare_depths(DEPTHS, rng.normal(size=(3, 6)))) for _ in range(100)]
    assert sum(curve is not None and curve.low is not None for curve in curves) < 15


def test_a_parabola_passes_the_test_of_fit_and_a_zigzag_does_not() -> None:
    rng = np.random.default_rng(3)
    noise = [rng.normal(size=(3, 6)) * 0.01 for _ in range(400)]
    good = [fit_curve(compare_depths(DEPTHS, parabola(24.0) + n)).lack_of_fit_p for n in noise]
    assert stats.kstest(good, "uniform").pvalue > 0.01
    zigzag = parabola(24.0) + np.array([0.03, -0.03, 0.03, -0.03, 0.03, -0.03])
    bad = [fit_curve(compare_depths(DEPTHS, zigzag + n)).lack_of_fit_p for n in noise]
    assert np.mean(np.array(bad) < 0.05) > 0.9


def test_two_depths_have_no_curve() -> None:
    assert fit_curve(compare_depths((2, 4), [[1.0, 2.0]])) is None
