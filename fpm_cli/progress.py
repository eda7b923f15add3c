"""What long work calls to tell how far it is; `progress_bars.py` shows it."""

from collections.abc import Callable

# Called with how much is done and how much there is; None: that is not known.
Report = Callable[[int, int | None], None]

# The same of work in several stages, with the stage's name first.
StageReport = Callable[[str, int, int], None]


def ignore_report(done: int, total: int | None) -> None:
    """A `Report` that shows nothing."""


def ignore_stage_report(stage: str, done: int, total: int) -> None:
    """A `StageReport` that shows nothing."""
