"""The best of the learning rates tried, against the minimum of a known parabola."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.study.tables import best_rate


@given(st.floats(1.2e-3, 7e-3), st.floats(0.01, 5))
def test_the_minimum_of_a_parabola_in_log_rate_is_found(optimum: float, curvature: float) -> None:
    rates = [1e-3, 2e-3, 4e-3, 8e-3]
    losses = [3 + curvature * math.log(rate / optimum) ** 2 for rate in rates]
    found = best_rate(rates, losses)
    assert found is not None
    inner = 1e-3 * math.sqrt(2) < optimum < 8e-3 / math.sqrt(2)  # else the best rate tried is at the edge
    assert found == pytest.approx(optimum if inner else (1e-3 if optimum < 4e-3 else 8e-3), rel=1e-4)


def test_a_diverged_rate_is_left_out() -> None:
    assert best_rate([1.0, 2.0, 4.0], [3.0, 2.0, None]) == pytest.approx(2.0)
    assert best_rate([1.0], [None]) is None
