"""What ties a rank to whoever started it: signs of life one way, the wish to stop the other way.

    logs/rank-N.beat   one line of JSON, replaced every few seconds by a thread of rank N: how often it
                       has beaten, its step, host and pid, and its exit status once it ends
    logs/stop          the launcher's wish that all ranks save and end, where signals do not reach them

Both live in the run folder, which every node sees. A stopped process and a dead machine stop beating;
so the launcher can name the rank that hangs, where the process group only knows that one does.
No torch here: a rank beats from its first moment, before the heavy imports.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from fpm_cli.launch.shutdown import StopWish

STOP = "stop"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Sign:
    """The last sign of life of a rank."""

    beat: int  # counts up
    step: int  # the optimizer step it works at; 0 before the first
    host: str
    pid: int
    status: int | None = None  # its exit status, once it has one


class Lifeline:
    """The rank's end of it. `step` is the rank's to set, `stop.wanted` its to read.

    Without `logs` there is nobody to tell: a lone process lives in its launcher.
    """

    def __init__(self, stop: StopWish, logs: Path | None = None, rank: int = 0, seconds: float = 1.0):
        self.stop, self.step = stop, 0
        self.status: int | None = None
        self._logs, self._rank, self._seconds = logs, rank, seconds
        self._beat, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="fpm-lifeline", daemon=True)

    def __enter__(self) -> "Lifeline":
        if self._logs:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The last beat carries `status`, if the rank has set it."""
        self._ended.set()
        if self._logs:
            self._thread.join()
            self._tell(self._logs)

    def _keep_beating(self) -> None:
        assert self._logs
        while True:
            self._tell(self._logs)
            if (self._logs / STOP).exists():
                self.stop.wanted = True
            if self._ended.wait(self._seconds):
                return

    def _tell(self, logs: Path) -> None:
        self._beat += 1
        sign = Sign(self._beat, self.step, socket.gethostname(), os.getpid(), self.status)
        path = beat_path(logs, self._rank)
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(asdict(sign)), encoding="utf-8")
            temporary.rename(path)
        except OSError:  # a full disk ends no training; the saves will say so
            temporary.unlink(missing_ok=True)


def beat_path(logs: Path, rank: int) -> Path:
    """Where rank `rank` beats."""
    return logs / f"rank-{rank}.beat"


def beat_seconds(timeout_seconds: float) -> float:
    """How often to beat: ten times within the timeout, and every 5 s at least."""
    return min(5.0, timeout_seconds / 10)


def read_sign(logs: Path, rank: int) -> Sign | None:
    """The last sign of a rank, or None before the first."""
    try:
        return Sign(**json.loads(beat_path(logs, rank).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def die_with(parent: int | None) -> None:
    """Have the kernel kill this process when the one that started it ends, even by SIGKILL.

    `parent` is that one's pid, if known: it may have ended before this call. Linux only; elsewhere the
    collectives' timeout ends a rank whose launcher was killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
