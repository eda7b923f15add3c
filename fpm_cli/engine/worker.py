"""One rank of a launch of several: `python -m fpm_cli.engine.worker RUN`.

The environment names its rank, as torchrun's and DeepSpeed's launchers do.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

from fpm_cli.errors import FpmError, StoppedError
from fpm_cli.launch.heartbeat import Lifeline, beat_seconds, die_with
from fpm_cli.launch.placement import settle_in
from fpm_cli.launch.ranks import log_path
from fpm_cli.launch.shutdown import StopWish
from fpm_cli.runs.run import Run

PRETRAINING = "fpm_cli.engine.pretraining:Pretraining"


def main(arguments: list[str]) -> int:
    """Train as the rank that the environment names; the exit status is the error's."""
    parser = argparse.ArgumentParser(prog="fpm_cli.engine.worker", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--workload", default=PRETRAINING, metavar="MODULE:CLASS")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--began", type=float, help="time.time() when the launch began")
    parser.add_argument("--parent", type=int, help="the pid of the launcher, with which this process ends")
    parser.add_argument("--interface", help="the network interface of gloo and NCCL")
    parser.add_argument("--own-log", action="store_true", help="ranks above 0 speak into logs/rank-N.log")
    given = parser.parse_args(arguments)
    die_with(given.parent)
    rank = int(os.environ["RANK"])
    with StopWish() as stop:
        try:
            run = Run.open(given.run)
            if given.own_log and rank > 0:
                _speak_into(log_path(run.path / "logs", rank))
            settle_in(given.interface)
            seconds = beat_seconds(run.config().engine.timeout_seconds)
        except FpmError as error:
            return _status(error)
        with Lifeline(stop, run.path / "logs", rank, seconds) as lifeline:
            try:
                status = _train(run, lifeline, given)
            except BaseException:
                lifeline.status = 1  # that of a traceback
                raise
            lifeline.status = status
            return status


def _train(run: Run, lifeline: Lifeline, given: argparse.Namespace) -> int:
    from fpm_cli.engine.train import train  # seconds of imports, during which it beats already

    module, _, class_ = given.workload.partition(":")
    workload_type = getattr(importlib.import_module(module), class_)
    try:
        train(run, lifeline, workload_type, quiet=given.quiet, began=given.began)
    except FpmError as error:
        return _status(error)
    except KeyboardInterrupt:
        return 130
    return 0


def _speak_into(log: Path) -> None:
    """Further messages, of libraries too, go to the file."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())


def _status(error: FpmError) -> int:
    if not isinstance(error, StoppedError):  # the launcher says that once for all ranks
        print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
