"""Horizons in tokens, FLOPs and tokens per parameter are exact to one step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.horizon import Horizon, steps_of
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.resolve import resolve
from fpm_cli.errors import UsageError

CONFIGS = {
    name: resolve(name, proxy=True, environment={}).config for name in ("CPM-X-S", "BERT-C", "CPM-2-X-S")
}


@given(st.sampled_from(sorted(CONFIGS)), st.integers(1, 10**9))
def test_the_last_step_is_the_first_that_reaches_the_tokens(name: str, tokens: int) -> None:
    config = CONFIGS[name]
    steps, per_step = steps_of(config, Horizon(tokens=tokens)), step_flops(config).tokens
    assert (steps - 1) * per_step < tokens <= steps * per_step


@given(st.sampled_from(sorted(CONFIGS)), st.floats(1e9, 1e18))
def test_the_last_step_is_the_first_that_reaches_the_flops(name: str, flops: float) -> None:
    config = CONFIGS[name]
    steps, per_step = steps_of(config, Horizon(flops=flops)), step_flops(config).model
    assert (steps - 1) * per_step < flops * (1 + 1e-12) and flops <= steps * per_step * (1 + 1e-12)


def test_tokens_per_parameter_count_all_parameters() -> None:
    config = CONFIGS["CPM-X-S"]
    expected = math.ceil(
        20 * count_parameters(config) / (config.train.global_batch * config.train.sequence_length)
    )
    assert steps_of(config, Horizon(tokens_per_parameter=20)) == expected


def test_without_a_horizon_the_steps_stay() -> None:
    assert steps_of(CONFIGS["BERT-C"], Horizon()) == CONFIGS["BERT-C"].train.steps


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_horizon_that_is_not_a_positive_number_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="--tokens-per-parameter"):
        steps_of(CONFIGS["BERT-C"], Horizon(tokens_per_parameter=value))


def test_two_horizons_are_refused() -> None:
    with pytest.raises(UsageError, match="--tokens and --flops"):
        steps_of(CONFIGS["BERT-C"], Horizon(tokens=1, flops=1))
