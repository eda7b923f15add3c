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
    assert seconds_of(text, bare_unit="s") == seconds


@pytest.mark.parametrize(("unit", "seconds"), [("s", 1.5), ("h", 5400)])
def test_a_number_without_a_unit_is_in_the_unit_of_its_flag(unit: str, seconds: float) -> None:
    assert seconds_of("1.5", bare_unit=unit) == seconds


@given(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            ["0", "0m", "-5m", "1h 30m", "m", "١m", "1.5.h", "", "inf", "nan", "9" * 400, "99999d"]
        ),
    )
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    try:
        assert 0 < seconds_of(text, bare_unit="s") <= 10 * 365 * 86_400
    except UsageError as error:
        assert "1h30m" in str(error)
