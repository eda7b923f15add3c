"""Signals as a wish to stop: the first one ends training after a saved step, a second Ctrl-C at once."""

import signal
from types import FrameType

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
