"""The channel between a rank and the launcher: heartbeats one way, the request to shut down the other way.

    logs/rank-N.beat   one line of JSON, replaced every few seconds by a thread of rank N: a count, its step,
                       host and pid, and its exit status once it ends
    logs/stop          asks all ranks to save and end, where the launcher's signals do not reach them

Both are in the run folder, which every node sees. A stopped process and a dead machine send no heartbeats, so
the launcher can name the rank that hangs, where the process group only knows that one does.
This module does not import torch: a rank sends heartbeats while it still imports.
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

from fpm_cli.launch.shutdown import ShutdownRequest

SHUTDOWN_FILE = "stop"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class HeartbeatRecord:
    """The content of a heartbeat file."""

    count: int  # of the rank's heartbeats
    step: int  # the optimizer step that it works at; 0 before the first
    host: str
    pid: int
    exit_status: int | None = None  # set when it ends


class Heartbeat:
    """Sends the heartbeats of one rank from a thread. The rank sets `step`, and reads `shutdown.requested`.

    Without `logs` nothing is sent: a single process trains inside its launcher.
    """

    def __init__(
        self, shutdown: ShutdownRequest, logs: Path | None = None, rank: int = 0, interval: float = 1.0
    ):
        self.shutdown, self.step = shutdown, 0
        self.exit_status: int | None = None
        self._logs, self._rank, self._interval = logs, rank, interval
        self._count, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, name="fpm-heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        if self._logs:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The last heartbeat carries `exit_status`, if the rank has set it."""
        self._ended.set()
        if self._logs:
            self._thread.join()
            self._send(self._logs)

    def _run(self) -> None:
        assert self._logs
        while True:
            self._send(self._logs)
            if (self._logs / SHUTDOWN_FILE).exists():
                self.shutdown.requested = True
            if self._ended.wait(self._interval):
                return

    def _send(self, logs: Path) -> None:
        """Atomic, but not synced: after a crash of the machine nobody reads it."""
        self._count += 1
        record = HeartbeatRecord(self._count, self.step, socket.gethostname(), os.getpid(), self.exit_status)
        path = heartbeat_path(logs, self._rank)
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")
            temporary.rename(path)
        except OSError:  # training continues on a full disk until a save fails and reports it
            temporary.unlink(missing_ok=True)


def heartbeat_path(logs: Path, rank: int) -> Path:
    """The heartbeat file of a rank."""
    return logs / f"rank-{rank}.beat"


def heartbeat_interval(timeout_seconds: float) -> float:
    """Seconds between two heartbeats: ten of them fit into the timeout, and it is 5 s at most."""
    return min(5.0, timeout_seconds / 10)


def read_heartbeat(logs: Path, rank: int) -> HeartbeatRecord | None:
    """The last heartbeat of a rank, or None before the first."""
    try:
        return HeartbeatRecord(**json.loads(heartbeat_path(logs, rank).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def set_parent_death_signal(parent: int | None) -> None:
    """Have the kernel kill this process when the one that started it ends, even by SIGKILL.

    `parent` is that one's pid, if known: it may have ended before this call. Linux only; elsewhere the
    timeout of the collectives ends a rank whose launcher was killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
