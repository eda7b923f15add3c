"""Starts the processes of a run on this node and supervises them until they end.

One process trains inside the caller; several are workers of their own (`fpm_cli.launch.ranks`).
"""

import os
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from rich.console import Console

from fpm_cli.engine.worker import encode_command
from fpm_cli.errors import StoppedError
from fpm_cli.launch.heartbeat import Heartbeat
from fpm_cli.launch.placement import Placement
from fpm_cli.launch.ranks import Ranks
from fpm_cli.launch.shutdown import ShutdownRequest
from fpm_cli.progress_bars import show_cursor
from fpm_cli.runs.run import Run

WORKER = "fpm_cli.engine.worker"

if TYPE_CHECKING:  # it imports torch, which the launcher of workers has no use for
    from fpm_cli.engine.workload import Workload


def launch(
    run: Run,
    placement: Placement,
    workload_type: "type[Workload] | None" = None,
    *,
    quiet: bool = False,
    began: float | None = None,
) -> None:
    """Train `run` with the ranks that `placement` puts on this node; without a workload it is pre-trained.

    A wall-clock budget runs from `began` (time.time()); None is now.

    Raises:
        FpmError: what the first failing rank raised, or that it died or hangs, with its log's last lines.
        KeyboardInterrupt: a second Ctrl-C, which does not wait for a step to be saved.
    """
    began = began or time.time()
    if placement.world_size == 1:
        with run.lock(), ShutdownRequest() as shutdown:
            from fpm_cli.engine.train import train

            train(run, Heartbeat(shutdown), workload_type, quiet=quiet, began=began)
        return
    command = [sys.executable, "-m", WORKER, str(run.path), "--parent", str(os.getpid())]
    command += ["--interface", placement.interface] if placement.interface else []
    command += worker_flags(workload_type, quiet=quiet, began=began)
    ranks = Ranks(command, placement, run.path / "logs")
    with run.lock() if placement.is_main_node else nullcontext():
        try:
            ranks.supervise(run.config().engine.timeout_seconds)
        except StoppedError as stopped:
            raise StoppedError(f"{stopped}; continue with {run.resume_command}") from stopped
        finally:
            show_cursor(Console(stderr=True, quiet=quiet))  # which a killed rank 0 leaves hidden


def worker_flags(workload_type: "type[Workload] | None", *, quiet: bool, began: float) -> list[str]:
    """The flags of `fpm_cli.engine.worker`, whichever launcher starts it."""
    flags = ["--began", f"{began:.3f}", "--command", encode_command(sys.argv)]
    flags += ["--quiet"] if quiet else []
    if workload_type:
        flags += ["--workload", f"{workload_type.__module__}:{workload_type.__qualname__}"]
    return flags
