"""The ranks of this node: starts and supervises them, and ends all of them when one fails.

Rank 0 writes its messages to the caller's stderr, the others to `logs/rank-N.log`. When one fails or hangs,
the rest are ended, and the error says which one it was, why, and the last lines of its log.
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
from fpm_cli.launch.heartbeat import HeartbeatRecord, heartbeat_path, read_heartbeat
from fpm_cli.launch.placement import Placement, reserved_port
from fpm_cli.launch.shutdown import SIGNALS

FAILURE_SECONDS = 1.0  # the peers of a rank that died fail too, some before the launcher sees the first
SHUTDOWN_SECONDS = 30.0  # between the first rank that has saved and stopped and the last
LOG_LINES = 5
ERROR_BY_EXIT_STATUS: dict[int, type[FpmError]] = {
    kind.exit_status: kind for kind in (UsageError, MissingError, DivergedError, DamagedError, StoppedError)
}


@dataclass
class Rank:
    """A process of this node, its last heartbeat, and when that was read first (time.monotonic())."""

    number: int
    process: subprocess.Popen[bytes]
    heartbeat: HeartbeatRecord | None
    heartbeat_time: float

    @property
    def exit_status(self) -> int | None:
        """Negative for a signal, None while it runs."""
        return self.process.poll()


class Ranks:
    """The processes that run `command`, one for each rank of `placement` on this node."""

    def __init__(self, command: Sequence[str], placement: Placement, logs: Path):
        self.command, self.placement, self.logs = command, placement, logs
        self.ranks: list[Rank] = []
        self.forwarded_signals: list[int] = []

    def supervise(self, timeout_seconds: float) -> None:
        """Start the ranks and return once all have succeeded; one without a heartbeat for so long hangs.

        Raises:
            FpmError: what the first failing rank raised, or that it died or hangs.
            KeyboardInterrupt: a second Ctrl-C.
        """
        with self._forwarding_signals(), reserved_port() as port:
            try:
                self._start(self.placement.master_port or port)
                while (failed := self._find_failed()) is None:
                    if all(rank.exit_status == 0 for rank in self.ranks):
                        return
                    if hanging := self._find_hanging(timeout_seconds):
                        raise self._error(hanging, f"sent no heartbeat for {timeout_seconds:g} s")
                    time.sleep(0.05)
                if failed.exit_status == StoppedError.exit_status:
                    self._wait(SHUTDOWN_SECONDS)
                elif failed.exit_status == 1:
                    self._wait(FAILURE_SECONDS)
                raise self._describe_failure(timeout_seconds)
            finally:
                self._kill()

    def _start(self, port: int) -> None:
        for number in self.placement.ranks:
            environment = self.placement.environment(number, port)
            heartbeat_path(self.logs, number).unlink(missing_ok=True)
            stderr: IO[bytes] | None = None if number == 0 else log_path(self.logs, number).open("wb")
            # In a session of its own, so that Ctrl-C reaches the ranks once, from here.
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

    def _find_failed(self) -> Rank | None:
        """The rank that failed first: one killed by a signal comes before one with a status that says why,
        and that before one with status 1, which the peers of a failed rank have.
        """
        failed = [(status > 0, status == 1, rank) for rank in self.ranks if (status := rank.exit_status)]
        return min(failed, key=lambda entry: (entry[:2], entry[2].number))[2] if failed else None

    def _find_hanging(self, seconds: float) -> Rank | None:
        now = time.monotonic()
        for rank in self.ranks:
            heartbeat = read_heartbeat(self.logs, rank.number)
            if heartbeat != rank.heartbeat or rank.exit_status is not None:
                rank.heartbeat, rank.heartbeat_time = heartbeat, now
        return next((rank for rank in self.ranks if now - rank.heartbeat_time > seconds), None)

    def _describe_failure(self, timeout_seconds: float) -> FpmError:
        failed = self._find_failed()
        assert failed and failed.exit_status
        silent = self._find_hanging(timeout_seconds / 2)
        if failed.exit_status == 1 and silent:  # the others' collectives timed out before its heartbeat did
            return self._error(silent, f"hangs; rank {failed.number} waited for it in vain")
        if failed.exit_status == StoppedError.exit_status or -failed.exit_status in self.forwarded_signals:
            return StoppedError("stopped; every step up to the last save is kept")
        if failed.exit_status < 0:
            return self._error(failed, f"was killed by {signal.Signals(-failed.exit_status).name}")
        return self._error(failed, f"ended with status {failed.exit_status}")

    def _error(self, rank: Rank, message: str) -> FpmError:
        kind = ERROR_BY_EXIT_STATUS.get(rank.exit_status or 1, FpmError)
        step = f" in step {rank.heartbeat.step}" if rank.heartbeat and rank.heartbeat.step else ""
        return kind(f"rank {rank.number} {message}{step}; {log_tail(self.logs, rank.number)}")

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(rank.exit_status is None for rank in self.ranks) and time.monotonic() < deadline:
            time.sleep(0.02)

    @contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        def forward(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT and number in self.forwarded_signals:
                raise KeyboardInterrupt
            self.forwarded_signals.append(number)
            for rank in self.ranks:
                if rank.exit_status is None:
                    rank.process.send_signal(number)

        previous = {number: signal.signal(number, forward) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _kill(self) -> None:
        for rank in self.ranks:
            if rank.exit_status is None:
                rank.process.kill()
        for rank in self.ranks:
            rank.process.wait()


def log_path(logs: Path, rank: int) -> Path:
    """Where a rank's messages go; those of rank 0 go to the user's terminal."""
    return logs / f"rank-{rank}.log"


def log_tail(logs: Path, rank: int) -> str:
    """The end of a rank's log, for an error message."""
    log = log_path(logs, rank)
    if rank == 0:
        return "its messages are above"
    if not log.is_file():
        return "it has no log yet"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    heading = f"its log {log} ends:" if lines else f"its log {log} is empty"
    return "\n  ".join([heading, *lines[-LOG_LINES:]])
