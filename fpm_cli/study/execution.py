"""Runs the chains of a study side by side, each command in a process of its own, until all are done.

A command that ends with 5 (training diverged) ends its chain, which is a result; any other failure ends the
study with that command's message, and `fpm study resume` continues it. A signal is passed on to the running
commands, which save and stop.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from fpm_cli.errors import DivergedError, FpmError, StoppedError
from fpm_cli.files import replace_text
from fpm_cli.launch.heartbeat import set_parent_death_signal
from fpm_cli.launch.placement import threads_per_process
from fpm_cli.study.chains import DIVERGED, Chain, Scoring, Stage

POLL_SECONDS = 0.1
LEAST_FREE = 2**20  # bytes; with less, a disk counts as full
STOP_SECONDS = 120.0  # for running commands to save and stop
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass
class _Running:
    chain: Chain
    stage: Stage
    process: subprocess.Popen[bytes]
    output: Path  # its stdout
    log: Path  # its stderr
    started: float


def run_chains(
    chains: Sequence[Chain], logs: Path, num_jobs: int, on_done: Callable[[Chain, Stage, float], None]
) -> None:
    """Run every stage that is not done, at most `num_jobs` at a time.

    Args:
        chains: from `build_chains`.
        logs: a folder for the output of running commands.
        num_jobs: processes side by side; each gets its share of the cores.
        on_done: called with a finished stage and the seconds it took.

    Raises:
        StoppedError: a signal came; the running commands were stopped and saved what they had.
        FpmError: a command failed otherwise; carries its exit status and message.
    """
    logs.mkdir(exist_ok=True)
    waiting, running = list(chains), list[_Running]()
    with _signals() as received:
        try:
            while (waiting or running) and not received:
                while waiting and len(running) < num_jobs:
                    chain = waiting.pop(0)
                    if stage := chain.next_stage():
                        running.append(_start(chain, stage, logs, num_jobs))
                time.sleep(POLL_SECONDS)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    _finish(each)
                    on_done(each.chain, each.stage, time.monotonic() - each.started)
                    waiting.insert(0, each.chain)
        finally:
            _stop(running)
    if received:
        raise StoppedError("stopped; the running commands have saved what they had")


def _start(chain: Chain, stage: Stage, logs: Path, num_jobs: int) -> _Running:
    output, log = logs / f"{chain.name}.out", logs / f"{chain.name}.log"
    threads = str(threads_per_process(num_jobs))
    with output.open("wb") as stdout, log.open("wb") as stderr:
        process = _popen(stage.command, stdout, stderr, {**os.environ, "OMP_NUM_THREADS": threads})
    return _Running(chain, stage, process, output, log, time.monotonic())


def _popen(
    command: Sequence[str], stdout: IO[bytes], stderr: IO[bytes], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """A command in a session of its own, which Ctrl-C reaches through us only; it ends when we are killed."""
    parent = os.getpid()
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        start_new_session=True,
        preexec_fn=(lambda: set_parent_death_signal(parent)) if sys.platform == "linux" else None,
    )


def _finish(each: _Running) -> None:
    """Keep the output of a scoring, mark a diverged run, raise what went wrong otherwise."""
    status, stage = each.process.returncode, each.stage
    if status == 0:
        if isinstance(stage, Scoring):
            replace_text(stage.output, each.output.read_text(encoding="utf-8"))
        return
    message = each.log.read_text(encoding="utf-8", errors="replace").strip()
    if status == DivergedError.exit_status and stage.run.is_dir():
        replace_text(stage.run / DIVERGED, message + "\n")
        return
    last = message.splitlines()[-1].removeprefix("error: ") if message else f"ended with status {status}"
    free = shutil.disk_usage(each.log.parent).free
    if not message and free < LEAST_FREE:  # what it had to say could not be written
        last += f", and {free:,} bytes are free on the disk of {each.log.parent}; free some space"
    error = FpmError(f"{each.chain.name}: {last} (the whole message is in {each.log})")
    error.exit_status = status if status > 0 else 1
    raise error


def _stop(running: Sequence[_Running]) -> None:
    for each in running:
        each.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for each in running:
        try:
            each.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.process.kill()
            each.process.wait()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals received within, instead of what they do by default."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, remember) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
