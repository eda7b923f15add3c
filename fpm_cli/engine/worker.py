"""One rank of a launch of several: `python -m fpm_cli.engine.worker RUN`.

The environment names its rank, as torchrun's and DeepSpeed's launchers do.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from fpm_cli.errors import FpmError, StoppedError
from fpm_cli.launch.heartbeat import Heartbeat, heartbeat_interval, set_parent_death_signal
from fpm_cli.launch.placement import set_rank_environment
from fpm_cli.launch.ranks import log_path
from fpm_cli.launch.shutdown import ShutdownRequest
from fpm_cli.runs.run import Run
from fpm_cli.text_encoding import ensure_utf8_mode

PRETRAINING = "fpm_cli.engine.pretraining:Pretraining"


def main(arguments: list[str]) -> int:
    """Train as the rank that the environment names; the exit status is the error's."""
    parser = argparse.ArgumentParser(prog="fpm_cli.engine.worker", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--workload", default=PRETRAINING, metavar="MODULE:CLASS")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--began", type=float, help="time.time() when the launch began")
    parser.add_argument(
        "--parent", type=int, help="pid of the launcher; this process ends when that one does"
    )
    parser.add_argument("--interface", help="the network interface of gloo and NCCL")
    parser.add_argument("--command", help="the command line of the launch, from `encode_command`")
    parser.add_argument(
        "--own-log", action="store_true", help="ranks above 0 write their messages to logs/rank-N.log"
    )
    flags = parser.parse_args(arguments)
    set_parent_death_signal(flags.parent)
    rank = int(os.environ["RANK"])
    with ShutdownRequest() as shutdown:
        try:
            run = Run.open(flags.run, decode_command(flags.command) if flags.command else None)
            if flags.own_log and rank > 0:
                _redirect_stderr(log_path(run.path / "logs", rank))
            set_rank_environment(flags.interface)
            interval = heartbeat_interval(run.config().engine.timeout_seconds)
        except FpmError as error:
            return _report(error)
        with Heartbeat(shutdown, run.path / "logs", rank, interval) as heartbeat:
            try:
                status = _train(run, heartbeat, flags)
            except BaseException:
                heartbeat.exit_status = 1  # that of a traceback
                raise
            heartbeat.exit_status = status
            return status


def encode_command(command: Sequence[str]) -> str:
    """A command line as one word that no shell on the way to another machine changes."""
    return quote(json.dumps(list(command)), safe="")


def decode_command(word: str) -> list[str]:
    """The command line of `encode_command`."""
    command: list[str] = json.loads(unquote(word))
    return command


def _train(run: Run, heartbeat: Heartbeat, flags: argparse.Namespace) -> int:
    from fpm_cli.engine.train import train  # imports for seconds; heartbeats are sent meanwhile

    module, _, class_ = flags.workload.partition(":")
    workload_type = getattr(importlib.import_module(module), class_)
    try:
        train(run, heartbeat, workload_type, quiet=flags.quiet, began=flags.began, launched=True)
    except FpmError as error:
        return _report(error)
    except KeyboardInterrupt:
        return 130
    return 0


def _redirect_stderr(log: Path) -> None:
    """Write further messages, those of libraries too, to the file."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())


def _report(error: FpmError) -> int:
    if not isinstance(error, StoppedError):  # which the launcher reports once for all ranks
        print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_status


if __name__ == "__main__":
    ensure_utf8_mode()
    sys.exit(main(sys.argv[1:]))
