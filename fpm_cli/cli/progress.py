"""Progress on stderr: a live bar on a terminal, plain lines elsewhere, nothing under `--quiet`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fpm_cli.cli.console import stderr_console

LINE_SECONDS = 5.0  # between plain lines of one stage


class StageProgress:
    """Progress of stages that follow one another; each has a name, a unit and, once it is known, a total.

    On a terminal each stage is a bar with its count, its time so far and its time left, which goes when the
    stage ends. Without a terminal the first, the last and every LINE_SECONDS-th update is a line.
    """

    def __init__(self, unit: str, console: Console | None = None) -> None:
        self.unit = unit
        self.console = console or stderr_console()
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._began = self._printed = 0.0

    def __enter__(self) -> "StageProgress":
        if self.console.is_terminal and not self.console.quiet:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self.unit),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` units of a stage are finished; another name begins another stage."""
        is_new = stage != self._stage
        if is_new:
            self._stage, self._began, self._printed = stage, time.monotonic(), 0.0
        if self._bars:
            self._update_bar(is_new, done, total)
        elif is_new or done == total or time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            self.console.print(self._line(done, total), markup=False, soft_wrap=True)

    def _update_bar(self, is_new: bool, done: int, total: int) -> None:
        assert self._bars
        if is_new:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(self._stage, total=total)
        assert self._task is not None
        self._bars.update(self._task, completed=done, total=total)

    def _line(self, done: int, total: int) -> str:
        seconds = time.monotonic() - self._began
        left = f", {seconds / done * (total - done):.0f} s left" if 0 < done < total and seconds > 1 else ""
        return f"{self._stage}: {done:,} of {total:,} {self.unit}{left}"


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something of unknown length is being done: a spinner on a terminal, a line elsewhere."""
    console = stderr_console()
    if console.is_terminal and not console.quiet:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bars:
            bars.add_task(what, total=None)
            yield
    else:
        console.print(what, markup=False, soft_wrap=True)
        yield
