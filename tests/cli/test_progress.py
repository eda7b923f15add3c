"""Progress: bars that leave nothing behind on a terminal, few plain lines elsewhere."""

import io
import re

import pytest
from rich.console import Console

from fpm_cli import progress_bars
from fpm_cli.progress_bars import StageProgress, rate
from tests.terminal import visible_lines


def plain_console(**options: object) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=False, highlight=False, width=100, **options), text  # type: ignore[arg-type]


def test_without_a_terminal_a_stage_has_a_first_and_a_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    console, text = plain_console()
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: 10.0)
    with StageProgress("shards", console) as stages:
        for done in range(1, 101):
            stages.update("reading", done, 100)
        stages.update("merging", 1, 1)
    assert text.getvalue().splitlines() == [
        "reading: 1 of 100 shards",
        "reading: 100 of 100 shards",
        "merging: 1 of 1 shards",
    ]


def test_plain_lines_come_at_a_steady_pace_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    console, text = plain_console()
    now = 100.0
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: now)
    with StageProgress("samples", console) as stages:
        for done in range(1, 22):
            stages.update("scoring", done, 21)
            now += 1.0
    lines = text.getvalue().splitlines()
    assert len(lines) == 2 + 3  # the first, one each five seconds, the last
    assert lines[1] == "scoring: 6 of 21 samples, 0:15 left"  # five seconds for five samples


def terminal(width: int) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=True, width=width, _environ={}), text


@pytest.mark.parametrize("width", [80, 150])
def test_a_bar_shows_count_rate_and_time_left_on_one_line(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, text = terminal(width)
    now = 100.0
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: now)
    with StageProgress("samples", console) as stages:
        stages.update("scoring", 0, 10_000)
        now += 10.0
        assert stages._bars
        stages._bars.refresh()
        assert "0/10,000 samples  0:10" in re.sub(r"\x1b\[[\d;]*m", "", text.getvalue())
        stages.update("scoring", 2_500, 10_000)
        stages._bars.refresh()
    last = [
        line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text.getvalue())) if line
    ]
    assert re.search(r"scoring .* 2,500/10,000 samples 250/s 0:30 left$", last[-1].rstrip())
    assert len(last[-1]) <= width


def test_a_stage_of_unknown_length_shows_its_time_so_far() -> None:
    console, text = plain_console()
    with StageProgress("MB", console) as stages:
        stages.update("reading", 3, None)
    assert text.getvalue() == "reading: 3 MB\n"


@pytest.mark.parametrize(
    ("per_second", "text"), [(1234.5, "1,234/s"), (3.21, "3.2/s"), (0.2, "12/min"), (0.01, "0.6/min")]
)
def test_rates_are_per_second_or_per_minute(per_second: float, text: str) -> None:
    assert rate(per_second) == text


def test_on_a_terminal_nothing_is_left_behind() -> None:
    console, text = terminal(80)
    with StageProgress("shards", console) as stages:
        stages.update("a stage with a long name", 1, 2)
        stages.update("short", 1, 2)
    assert "a stage with a long name" in text.getvalue()
    assert visible_lines(text.getvalue()) == []


def test_quiet_prints_nothing() -> None:
    console, text = plain_console(quiet=True)
    with StageProgress("shards", console) as stages:
        stages.update("reading", 1, 2)
    assert text.getvalue() == ""
