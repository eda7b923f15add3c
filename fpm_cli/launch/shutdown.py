"""Signals as a wish to stop: the first one ends training after a saved step, a second Ctrl-C at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fpm_cli.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopWish:
    """Remembers that a signal came; `with StopWish() as stop:` listens, `stop.wanted` tells."""

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> "StopWish":
        self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True


class _AtOnce(BaseException):
    """Passes through whatever handles exceptions, as KeyboardInterrupt does."""


@contextmanager
def stopping_at_once(message: str) -> Iterator[None]:
    """Where nothing has to be saved first: SIGTERM and SIGUSR1 end the work there and then.

    Raises:
        StoppedError: one of them came, and no `StopWish` within listened.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise _AtOnce

    previous = {number: signal.signal(number, stop) for number in SIGNALS if number != signal.SIGINT}
    try:
        yield
    except _AtOnce:
        raise StoppedError(message) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
