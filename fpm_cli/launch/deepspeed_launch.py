"""The ranks of several hosts, started by DeepSpeed's own launcher from a hostfile, and supervised from here.

DeepSpeed reaches the hosts by pdsh over ssh and forwards neither signals nor the exit status of a rank. So
the request to shut down is a file in the run folder, and how each rank ended, or that it hangs, is read from
its heartbeats there.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fpm_cli.errors import FpmError, StoppedError
from fpm_cli.launch.heartbeat import (
    SHUTDOWN_FILE,
    HeartbeatRecord,
    heartbeat_interval,
    heartbeat_path,
    read_heartbeat,
)
from fpm_cli.launch.ranks import ERROR_BY_EXIT_STATUS, log_tail
from fpm_cli.launch.shutdown import ShutdownRequest
from fpm_cli.runs.run import Run

TERMINATION_SECONDS = 45.0  # DeepSpeed gives its processes 30 s between SIGTERM and SIGKILL


def deepspeed_command(
    hostfile: Path, master_addr: str, master_port: int, worker: Sequence[str], options: Sequence[str]
) -> list[str]:
    """DeepSpeed's launcher over `hostfile`; `worker` is what each rank runs after `python -m`."""
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner"),
        *("--hostfile", str(hostfile), "--force_multi", "--no_ssh_check", "--no_local_rank"),
        *("--master_addr", master_addr, "--master_port", str(master_port)),
        *(*options, "--module", *worker),
    ]


def supervise(run: Run, command: Sequence[str], world_size: int, timeout_seconds: float) -> None:
    """Run DeepSpeed's launcher until it ends; a signal to this process makes all ranks save and stop.

    Raises:
        FpmError: what the first failing rank raised, or that it died or hangs.
        KeyboardInterrupt: a second Ctrl-C.
    """
    logs = run.path / "logs"
    monitor = _HeartbeatMonitor(logs, world_size)
    with run.lock(), ShutdownRequest() as shutdown:
        (logs / SHUTDOWN_FILE).unlink(missing_ok=True)
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONUTF8": "1"},  # DeepSpeed passes variables that begin with PYTHON on
        )
        try:
            while process.poll() is None:
                if shutdown.requested:
                    (logs / SHUTDOWN_FILE).touch()
                if hanging := monitor.find_hanging(timeout_seconds):
                    raise FpmError(
                        monitor.describe(hanging[0], f"sent no heartbeat for {timeout_seconds:g} s")
                    )
                time.sleep(0.1)
            time.sleep(heartbeat_interval(timeout_seconds) if process.returncode else 0)
            monitor.read()
            _raise_for_failed_rank(monitor, process.returncode)
        finally:
            (logs / SHUTDOWN_FILE).unlink(missing_ok=True)
            _terminate(process)


def _raise_for_failed_rank(monitor: "_HeartbeatMonitor", launcher_status: int) -> None:
    statuses = {
        rank: record.exit_status for rank, record in monitor.records.items() if record.exit_status is not None
    }
    # A rank with a status that says why comes before those with status 1, which its peers have.
    failed = sorted((status == 1, rank) for rank, status in statuses.items() if status)
    if not failed and launcher_status == 0 and len(statuses) == monitor.world_size:
        return
    if not failed:
        lost = next(rank for rank in range(monitor.world_size) if rank not in statuses)
        raise FpmError(
            monitor.describe(lost, f"died; DeepSpeed's launcher ended with status {launcher_status}")
        )
    rank = failed[0][1]
    kind = ERROR_BY_EXIT_STATUS.get(statuses[rank], FpmError)
    if kind is StoppedError:
        raise StoppedError("stopped; every step up to the last save is kept")
    raise kind(monitor.describe(rank, f"ended with status {statuses[rank]}"))


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """On SIGTERM DeepSpeed's launcher ends the ranks on all hosts."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(TERMINATION_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _HeartbeatMonitor:
    """The last heartbeat of every rank, and when it was read first (time.monotonic())."""

    def __init__(self, logs: Path, world_size: int):
        self.logs, self.world_size = logs, world_size
        self.records: dict[int, HeartbeatRecord] = {}
        self.times = dict.fromkeys(range(world_size), time.monotonic())
        for rank in range(world_size):
            heartbeat_path(logs, rank).unlink(missing_ok=True)

    def read(self) -> None:
        for rank in self.times:
            record = read_heartbeat(self.logs, rank)
            if record and record != self.records.get(rank):
                self.records[rank], self.times[rank] = record, time.monotonic()

    def find_hanging(self, seconds: float) -> list[int]:
        self.read()
        now = time.monotonic()
        silent = [rank for rank, last in self.times.items() if now - last > seconds]
        return [r for r in silent if r not in self.records or self.records[r].exit_status is None]

    def describe(self, rank: int, message: str) -> str:
        record = self.records.get(rank)
        where = f" on {record.host} in step {record.step}" if record else ""
        return f"rank {rank}{where} {message}; {log_tail(self.logs, rank)}"
