"""Progress: bars that leave nothing behind on a terminal, few plain lines elsewhere."""

import io
import re

import pytest
from rich.console import Console

from fpm_cli.cli import progress
from fpm_cli.cli.progress import StageProgress


def plain_console(**options: object) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=False, highlight=False, width=100, **options), text  # type: ignore[arg-type]


def visible_lines(text: str) -> list[str]:
    """What a terminal shows in the end, of output that moves up and erases lines only."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[\d*[A-Za-z]|\x1b\[\?\d+[hl]|\r|\n)", re.sub(r"\x1b\[[\d;]*m", "", text)):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part and not part.startswith("\x1b") and part != "\r":
            lines[row] = part
    return [line for line in lines if line.strip()]


def test_without_a_terminal_a_stage_has_a_first_and_a_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    console, text = plain_console()
    monkeypatch.setattr(progress.time, "monotonic", lambda: 10.0)
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
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with StageProgress("samples", console) as stages:
        for done in range(1, 22):
            stages.update("scoring", done, 21)
            now += 1.0
    lines = text.getvalue().splitlines()
    assert len(lines) == 2 + 3  # the first, one each five seconds, the last
    assert lines[1] == "scoring: 6 of 21 samples, 12 s left"  # five seconds for six samples


def test_on_a_terminal_nothing_is_left_behind() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80, _environ={})
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
