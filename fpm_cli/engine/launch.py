"""Start the processes of a run on this node and see them through to their end.

One process trains inside the caller; several are workers of their own (`ranks.py`).
"""

import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from fpm_cli.engine.lifeline import Lifeline
from fpm_cli.engine.placement import Placement
from fpm_cli.engine.ranks import Ranks
from fpm_cli.engine.run import Run
from fpm_cli.engine.stop import StopWish
from fpm_cli.errors import StoppedError

if TYPE_CHECKING:  # it imports torch, which the launcher of workers has no use for
    from fpm_cli.engine.workload import Workload


def launch(
    run: Run,
    placement: Placement,
    workload_type: "type[Workload] | None" = None,
    *,
    quiet: bool = False,
) -> None:
    """Train `run` with the ranks that `placement` puts on this node; None is pre-training.

    Raises:
        FpmError: what the first failing rank raised, or that it died or hangs, with its log's last lines.
        KeyboardInterrupt: a second Ctrl-C, which does not wait for a step to be saved.
    """
    if placement.world_size == 1:
        with run.lock(), StopWish() as stop:
            from fpm_cli.engine.train import train

            train(run, Lifeline(stop), workload_type, quiet=quiet)
        return
    ranks = Ranks(worker_command(run, workload_type, quiet=quiet), placement, run.path / "logs")
    with run.lock() if placement.leads else nullcontext():
        try:
            ranks.see_through(run.config().engine.timeout_seconds)
        except StoppedError as stopped:
            raise StoppedError(f"{stopped}; continue with {run.resume_command}") from stopped


def worker_command(run: Run, workload_type: "type[Workload] | None", *, quiet: bool) -> list[str]:
    """What each rank runs; it ends with this process."""
    command = [sys.executable, "-m", "fpm_cli.engine.worker", str(run.path), "--parent", str(os.getpid())]
    if workload_type:
        command += ["--workload", f"{workload_type.__module__}:{workload_type.__qualname__}"]
    return [*command, *(["--quiet"] if quiet else [])]
