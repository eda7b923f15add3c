"""Durations on the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.cli.durations import seconds_of
from fpm_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172_800), (" 10M ", 600)],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@given(st.one_of(st.text(max_size=8), st.sampled_from(["30", "0m", "-5m", "1h 30m", "m", "١m", "1.5.h", ""])))
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    try:
        assert seconds_of(text) > 0
    except UsageError as error:
        assert "1h30m" in str(error)


def test_a_number_without_a_unit_is_refused() -> None:
    with pytest.raises(UsageError):
        seconds_of("30")
