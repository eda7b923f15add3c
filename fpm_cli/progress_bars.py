"""Progress on a console: live bars on a terminal, plain lines elsewhere, nothing on a quiet console.

A bar shows its total, the rate and the time left, and disappears when it ends.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from fpm_cli.progress import Report

LINE_SECONDS = 5.0  # between plain lines of one stage
REFRESH_PER_SECOND = 5.0


def shows_bars(console: Console) -> bool:
    """Whether it is a terminal that can move its cursor, and prints at all."""
    return console.is_terminal and not console.is_dumb_terminal and not console.quiet


class Pace:
    """The rate of a count since `began`, and the time that the rest takes at that rate."""

    def __init__(self, done: int = 0) -> None:
        self.began, self.first, self.done = time.monotonic(), done, done
        self.updated = self.began

    def update(self, done: int) -> None:
        """Now `done` units are finished."""
        self.done, self.updated = done, time.monotonic()

    @property
    def per_second(self) -> float | None:
        """None before the second unit."""
        seconds = self.updated - self.began
        return (self.done - self.first) / seconds if self.done > self.first and seconds > 0 else None

    def seconds_left(self, total: int | None) -> float | None:
        """From now on, at the rate so far; None where it is not known."""
        rate = self.per_second
        if total is None or rate is None:
            return None
        return max(0.0, (total - self.done) / rate - (time.monotonic() - self.updated))


class StageProgress:
    """Progress of stages that follow one another; each has a name, a unit and, once it is known, a total.

    On a terminal each stage is a bar with its count, rate and time left, or its time so far where there is no
    total. Without a terminal the first, the last and every LINE_SECONDS-th update is a line.
    """

    def __init__(self, unit: str, console: Console) -> None:
        """`unit` is what is counted, where `update` names no other."""
        self._default_unit = self._unit = unit
        self.console = console
        self._bars: Progress | None = None
        self._stage = ""
        self._total: int | None = None
        self._pace = Pace()
        self._printed = 0.0

    def __enter__(self) -> "StageProgress":
        if shows_bars(self.console):
            self._bars = make_bars(self.console)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def update(self, stage: str, done: int, total: int | None, unit: str = "") -> None:
        """Show that `done` of `total` units of a stage are finished; another name begins another stage."""
        is_new = stage != self._stage
        if is_new:
            self._stage, self._pace, self._printed = stage, Pace(done), 0.0
        self._total, self._unit = total, unit or self._default_unit
        self._pace.update(done)
        if self._bars:
            for task_id in self._bars.task_ids if is_new else ():
                self._bars.remove_task(task_id)
            if is_new:
                self._bars.add_task(stage, total=total, unit=self._unit, pace=self._pace)
            self._bars.update(self._bars.task_ids[-1], completed=done, total=total)
        elif is_new or done == total or time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            self.console.print(self._line(done), markup=False, soft_wrap=True)

    def reporter(self, stage: str) -> Report:
        """`update` of one stage."""
        return lambda done, total: self.update(stage, done, total)

    def print(self, message: str) -> None:
        """A line that stays, above the bar."""
        self.console.print(message, markup=False, soft_wrap=True)

    def _line(self, done: int) -> str:
        if self._total is None:
            return f"{self._stage}: {done:,} {self._unit}"
        left = self._pace.seconds_left(self._total) if done < self._total else None
        return (
            f"{self._stage}: {done:,} of {self._total:,} {self._unit}"
            f"{'' if left is None else f', {clock(left)} left'}"
        )


class StatusBars(Progress):
    """Bars with a line of text under them, which is cut to the terminal's width."""

    status = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See rich."""
        yield self.make_tasks_table(self.tasks)
        if self.status:
            yield Text(self.status, no_wrap=True, overflow="ellipsis")


class _CountColumn(ProgressColumn):
    """`120/600 shards`."""

    def render(self, task: Task) -> Text:
        done = f"{int(task.completed):,}"
        count = done if task.total is None else f"{done}/{int(task.total):,}"
        return Text(f"{count} {task.fields['unit']}")


class _RateColumn(ProgressColumn):
    """`3.2/s`; per minute where that is less than one."""

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        return Text("" if pace.per_second is None else rate(pace.per_second))


class _TimeColumn(ProgressColumn):
    """The time left, or where that is not known the time so far."""

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        left = None if task.total is None else pace.seconds_left(int(task.total))
        return Text(clock(time.monotonic() - pace.began) if left is None else f"{clock(left)} left")


def make_bars(console: Console) -> StatusBars:
    """Bars over the terminal's whole width; each task needs the fields `unit` and `pace`."""
    whole = {"no_wrap": True}
    return StatusBars(
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(**whole)),  # type: ignore[arg-type]
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        _CountColumn(table_column=Column(**whole)),  # type: ignore[arg-type]
        _RateColumn(table_column=Column(**whole)),  # type: ignore[arg-type]
        _TimeColumn(table_column=Column(**whole)),  # type: ignore[arg-type]
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=REFRESH_PER_SECOND,
    )


def show_cursor(console: Console) -> None:
    """Make the cursor visible again, after a process that showed bars there was killed."""
    if shows_bars(console):
        console.show_cursor(True)


@contextmanager
def working(what: str, console: Console) -> Iterator[None]:
    """Show that something of unknown length is being done: a spinner on a terminal, a line elsewhere."""
    if shows_bars(console):
        columns = (SpinnerColumn(), TextColumn("{task.description}"), _TimeColumn())
        with Progress(*columns, console=console, transient=True) as spinner:
            spinner.add_task(what, total=None, pace=Pace())
            yield
    else:
        console.print(what, markup=False, soft_wrap=True)
        yield


def rate(per_second: float) -> str:
    """`1,234/s`, `3.2/s`, `12/min`."""
    value, unit = (per_second, "s") if per_second >= 1 else (per_second * 60, "min")
    return f"{value:,.0f}/{unit}" if value >= 10 else f"{value:.1f}/{unit}"


def clock(seconds: float) -> str:
    """`0:42`, `3:20`, `5:12:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
