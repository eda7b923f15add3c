"""Start the processes of a run on this machine and see them through to their end.

One process trains inside the caller. Several are workers of their own, each with its share of the
cores; rank 0 speaks on the caller's stderr, the others into `logs/rank-N.log`. When one ends badly
the rest are stopped, and its log is named.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from fpm_cli.engine.run import Run
from fpm_cli.engine.stop import SIGNALS
from fpm_cli.engine.workload import Workload
from fpm_cli.errors import DamagedError, DivergedError, FpmError, MissingError, StoppedError, UsageError

GRACE_SECONDS = 10.0
BY_STATUS: dict[int, type[FpmError]] = {
    kind.exit_status: kind for kind in (UsageError, MissingError, DivergedError, DamagedError, StoppedError)
}


def launch(run: Run, nproc: int, workload_type: type[Workload] | None = None, *, quiet: bool = False) -> None:
    """Train `run` with `nproc` processes on this machine; the workload is pre-training unless named.

    Raises:
        FpmError: what the first failing rank raised, or that it died, with its log's name.
    """
    from fpm_cli.engine.pretraining import Pretraining
    from fpm_cli.engine.train import train

    kind = workload_type or Pretraining
    with run.lock():
        if nproc == 1:
            train(run, kind, quiet=quiet)
        else:
            _see_through(run, _start(run, nproc, kind, quiet=quiet))


def _start(run: Run, nproc: int, kind: type[Workload], *, quiet: bool) -> list[subprocess.Popen[bytes]]:
    from fpm_cli.engine.world import free_port

    threads = max(1, (os.cpu_count() or 1) // nproc)
    shared = {"WORLD_SIZE": str(nproc), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    # Without a limit each process would start a thread a core, and they would spin against each other.
    shared["OMP_NUM_THREADS"] = str(threads)
    name = f"{kind.__module__}:{kind.__qualname__}"
    command = [sys.executable, "-m", "fpm_cli.engine.worker", name, str(run.path)]
    command += ["--quiet"] if quiet else []
    workers = []
    for rank in range(nproc):
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        stderr: IO[bytes] | None = None if rank == 0 else _log(run, rank).open("wb")
        # A process group of its own: Ctrl-C reaches the workers once, from here.
        workers.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
        )
    return workers


def _see_through(run: Run, workers: Sequence[subprocess.Popen[bytes]]) -> None:
    previous = {number: signal.signal(number, lambda n, _: _send(workers, n)) for number in SIGNALS}
    try:
        while (failed := _first_failed(workers)) is None:
            if all(worker.poll() == 0 for worker in workers):
                return
            time.sleep(0.05)
        _finish(workers, patient=workers[failed].returncode == StoppedError.exit_status)
        raise _error(run, failed, workers[failed].returncode)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _send([worker for worker in workers if worker.poll() is None], signal.SIGKILL)


def _first_failed(workers: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((rank for rank, worker in enumerate(workers) if worker.poll() not in (None, 0)), None)


def _finish(workers: Sequence[subprocess.Popen[bytes]], *, patient: bool) -> None:
    """The others end too: by themselves where all were told to stop, else they are made to."""
    deadline = time.monotonic() + GRACE_SECONDS
    if not patient:
        _send(workers, signal.SIGKILL)
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)


def _send(workers: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def _error(run: Run, rank: int, status: int) -> FpmError:
    kind = BY_STATUS.get(status, FpmError)
    if kind is StoppedError:
        return StoppedError(f"stopped and saved; continue with {run.resume_command}")
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    where = "its messages are above" if rank == 0 else f"its messages are in {_log(run, rank)}"
    return kind(f"rank {rank} {how}; {where}")


def _log(run: Run, rank: int) -> Path:
    return run.path / "logs" / f"rank-{rank}.log"
