import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fpm_cli.objectives.order import shuffled


def order(count: int, seed: int = 1234, epoch: int = 0) -> list[int]:
    return [shuffled(place, count, seed, epoch) for place in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2500), st.integers(0, 2**31 - 1), st.integers(0, 2**40))
def test_every_element_comes_once_an_epoch(count: int, seed: int, epoch: int) -> None:
    assert sorted(order(count, seed, epoch)) == list(range(count))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2**62), st.data())
def test_elements_stay_in_range_and_distinct_at_any_size(count: int, data: st.DataObject) -> None:
    places = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=20))
    elements = {shuffled(place, count, 1, 2) for place in places}
    assert len(elements) == len(places)
    assert all(0 <= element < count for element in elements)


def test_order_is_a_contract_that_resumed_runs_rely_on() -> None:
    assert order(10) == [1, 9, 8, 0, 3, 2, 7, 6, 4, 5]
    assert order(10, epoch=1) == [3, 8, 1, 6, 4, 0, 2, 9, 5, 7]
    assert shuffled(123_456_789, 10**12, 42, 3) == 976_960_424_173


@pytest.mark.parametrize("count", [2, 3, 5, 7, 24, 100])
def test_each_place_holds_each_element_equally_often_over_epochs(count: int) -> None:
    orders = np.array([order(count, epoch=epoch) for epoch in range(1500)])
    for place in {0, count // 2, count - 1}:
        counts = np.bincount(orders[:, place], minlength=count)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_all_orders_of_four_are_about_as_likely() -> None:
    orders = [tuple(order(4, epoch=epoch)) for epoch in range(6000)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == math.factorial(4)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_neighbours_and_epochs_are_uncorrelated() -> None:
    first, second = np.array(order(5000)), np.array(order(5000, epoch=1))
    other_seed = np.array(order(5000, seed=1235))
    for a, b in [
        (first[:-1], first[1:]),
        (first, second),
        (first, other_seed),
        (first, np.arange(5000)),
        (first[:-70], first[70:]),
    ]:
        assert stats.spearmanr(a, b).pvalue > 1e-3


def test_steps_between_neighbours_spread_as_in_a_random_permutation() -> None:
    steps = np.diff(order(20_000)) % 20_000
    assert stats.kstest(steps / 20_000, "uniform").pvalue > 1e-3
