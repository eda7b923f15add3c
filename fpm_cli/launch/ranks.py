"""The ranks of this node: started, watched, and never left behind.

Rank 0 speaks on the caller's stderr, the others into `logs/rank-N.log`. When one ends badly or hangs,
the rest are ended and the error says which one it was, why, and the last lines of its log.
"""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from fpm_cli.errors import DamagedError, DivergedError, FpmError, MissingError, StoppedError, UsageError
from fpm_cli.launch.heartbeat import Sign, beat_path, read_sign
from fpm_cli.launch.placement import Placement, reserved_port
from fpm_cli.launch.shutdown import SIGNALS

LINGER_SECONDS = 1.0  # the peers of a rank that died fail too, some before their launcher sees the first
GRACE_SECONDS = 30.0  # between the first rank that has saved and stopped and the last
LOG_LINES = 5
BY_STATUS: dict[int, type[FpmError]] = {
    kind.exit_status: kind for kind in (UsageError, MissingError, DivergedError, DamagedError, StoppedError)
}


@dataclass
class Rank:
    """A process of this node and when it was last seen alive."""

    number: int
    process: subprocess.Popen[bytes]
    sign: Sign | None
    seen: float  # time.monotonic() when `sign` was new

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""
        return self.process.poll()


class Ranks:
    """The processes that run `command`, one for each rank of `placement` on this node."""

    def __init__(self, command: Sequence[str], placement: Placement, logs: Path):
        self.command, self.placement, self.logs = command, placement, logs
        self.ranks: list[Rank] = []
        self.passed_on: list[int] = []  # signals

    def see_through(self, timeout_seconds: float) -> None:
        """Start them and return once all have ended well; one that shows no sign of life that long hangs.

        Raises:
            FpmError: what the first failing rank raised, or that it died or hangs.
            KeyboardInterrupt: a second Ctrl-C.
        """
        with self._passing_signals(), reserved_port() as port:
            try:
                self._start(self.placement.master_port or port)
                while (failed := self._failed()) is None:
                    if all(rank.status == 0 for rank in self.ranks):
                        return
                    if hanging := self._hanging(timeout_seconds):
                        raise self._error(hanging, f"shows no sign of life for {timeout_seconds:g} s")
                    time.sleep(0.05)
                if failed.status == StoppedError.exit_status:
                    self._wait(GRACE_SECONDS)
                elif failed.status == 1:
                    self._wait(LINGER_SECONDS)
                raise self._ended(timeout_seconds)
            finally:
                self._kill()

    def _start(self, port: int) -> None:
        for number in self.placement.ranks:
            environment = self.placement.environment(number, port)
            beat_path(self.logs, number).unlink(missing_ok=True)
            stderr: IO[bytes] | None = None if number == 0 else log_path(self.logs, number).open("wb")
            # A session of its own: Ctrl-C reaches the ranks once, from here.
            process = subprocess.Popen(
                self.command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            if stderr:
                stderr.close()
            self.ranks.append(Rank(number, process, None, time.monotonic()))

    def _failed(self) -> Rank | None:
        """The rank that is to blame: one that a signal killed before one that says why, before the rest."""
        failed = {rank.number: status for rank in self.ranks if (status := rank.status)}
        first = min(failed, key=lambda number: (failed[number] > 0, failed[number] == 1), default=None)
        return next((rank for rank in self.ranks if rank.number == first), None)

    def _hanging(self, seconds: float) -> Rank | None:
        now = time.monotonic()
        for rank in self.ranks:
            sign = read_sign(self.logs, rank.number)
            if sign != rank.sign or rank.status is not None:
                rank.sign, rank.seen = sign, now
        return next((rank for rank in self.ranks if now - rank.seen > seconds), None)

    def _ended(self, timeout_seconds: float) -> FpmError:
        failed = self._failed()
        assert failed and failed.status
        self._hanging(timeout_seconds)  # reads the signs once more
        silent = [rank for rank in self.ranks if rank.status is None and self._silent(rank, timeout_seconds)]
        if failed.status == 1 and silent:  # a collective's timeout in the others came first
            return self._error(silent[0], f"hangs; rank {failed.number} waited for it in vain")
        if failed.status == StoppedError.exit_status or -failed.status in self.passed_on:
            return StoppedError("stopped; every step up to the last save is kept")
        how = f"was killed by {signal.Signals(-failed.status).name}" if failed.status < 0 else ""
        return self._error(failed, how or f"ended with status {failed.status}")

    def _silent(self, rank: Rank, timeout_seconds: float) -> bool:
        return time.monotonic() - rank.seen > timeout_seconds / 2

    def _error(self, rank: Rank, how: str) -> FpmError:
        kind = BY_STATUS.get(rank.status or 1, FpmError)
        at = f" in step {rank.sign.step}" if rank.sign and rank.sign.step else ""
        return kind(f"rank {rank.number} {how}{at}; {last_words(self.logs, rank.number)}")

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(rank.status is None for rank in self.ranks) and time.monotonic() < deadline:
            time.sleep(0.02)

    @contextmanager
    def _passing_signals(self) -> Iterator[None]:
        def pass_on(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT and number in self.passed_on:
                raise KeyboardInterrupt
            self.passed_on.append(number)
            for rank in self.ranks:
                if rank.status is None:
                    rank.process.send_signal(number)

        previous = {number: signal.signal(number, pass_on) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _kill(self) -> None:
        for rank in self.ranks:
            if rank.status is None:
                rank.process.kill()
        for rank in self.ranks:
            rank.process.wait()


def log_path(logs: Path, number: int) -> Path:
    """Where rank `number` writes what it has to say, unless it is 0, which says it to the user."""
    return logs / f"rank-{number}.log"


def last_words(logs: Path, number: int) -> str:
    """The end of a rank's log, for an error message."""
    log = log_path(logs, number)
    if number == 0:
        return "its messages are above"
    if not log.is_file():
        return "it has no log yet"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = [line for line in lines if line.strip()][-LOG_LINES:]
    return "\n  ".join([f"its log {log} ends:" if last else f"its log {log} is empty", *last])
