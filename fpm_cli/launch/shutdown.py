"""Signals as shutdown requests: the first ends training after a saved step, a second Ctrl-C at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fpm_cli.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class ShutdownRequest:
    """Handles the signals in a `with` block and remembers in `requested` that one came."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "ShutdownRequest":
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


class _Signalled(BaseException):
    """Not an Exception, so that no handler of errors catches it; KeyboardInterrupt is none either."""


@contextmanager
def stop_immediately_on_signal(message: str) -> Iterator[None]:
    """Where nothing has to be saved: SIGTERM and SIGUSR1 end the work at once.

    Raises:
        StoppedError: one of them came, and no `ShutdownRequest` inside handled it.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        raise _Signalled

    previous = {number: signal.signal(number, handle) for number in SIGNALS if number != signal.SIGINT}
    try:
        yield
    except _Signalled:
        raise StoppedError(message) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
