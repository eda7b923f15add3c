"""Ranks that are killed or stopped, launchers that are killed, on the real command line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fpm_cli.errors import UsageError
from fpm_cli.runs.run import Run
from tests.small_runs import finish, start, tiny, wait_for_step
from tests.torture.scale import counts

TIMEOUT = 8.0
Report = Callable[[str], None]
Corpora = Callable[[str], Path]


def two_ranks(
    run: Path, corpus: Path, timeout: float = 60.0
) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run of two ranks that has trained a step or two, and its workers by rank."""
    settings = ("train.steps=100000", "train.log_every=1", f"engine.timeout_seconds={timeout}")
    process = start([*tiny("BERT-C", *settings), "--corpus", str(corpus), "--nproc", "2", "--out", str(run)])
    wait_for_step(run, 2)
    pids = [json.loads((run / "logs" / f"rank-{rank}.beat").read_text())["pid"] for rank in range(2)]
    return process, [psutil.Process(pid) for pid in pids]


def end_one(
    process: subprocess.Popen[str], workers: list[psutil.Process], rank: int, number: int
) -> tuple[float, str]:
    """Signal one rank: the seconds until the launcher reports it, and what it says; then it ends with 1."""
    workers[rank].send_signal(number)
    began = time.monotonic()
    assert process.stderr
    with process.stderr:
        said = next((line for line in process.stderr if line.startswith("error: rank")), "")
        seconds = time.monotonic() - began
        process.stderr.read()
    assert process.wait(60) == 1
    _, alive = psutil.wait_procs(workers, timeout=0)
    assert not alive, "orphans"
    return seconds, said


@counts(1, 20)
def test_a_killed_rank_is_reported_within_two_seconds(
    count: int, tmp_path: Path, sample_corpora: Corpora, report: Report, slack: float
) -> None:
    slowest = 0.0
    for number in range(count):
        run, rank = tmp_path / f"run-{number}", (number + 1) % 2
        process, workers = two_ranks(run, sample_corpora("BERT-C"))
        seconds, said = end_one(process, workers, rank, signal.SIGKILL)
        assert f"rank {rank} was killed by SIGKILL" in said
        assert seconds < 2 + slack
        slowest = max(slowest, seconds)
        (launch,) = json.loads((run / "manifest.json").read_text())["launches"]
        assert launch["last_step"] >= 2 and launch["seconds"] > 0  # lost steps are charged all the same
    report(
        f"rank killed: {count} of {count} named within {2 + slack:g} s (slowest {slowest:.2f} s), "
        "status 1, 0 orphans"
    )


@counts(1, 10)
def test_a_stopped_rank_is_reported_within_the_timeout_and_two_seconds(
    count: int, tmp_path: Path, sample_corpora: Corpora, report: Report, slack: float
) -> None:
    slowest = 0.0
    for number in range(count):
        rank = (number + 1) % 2
        process, workers = two_ranks(tmp_path / f"run-{number}", sample_corpora("BERT-C"), TIMEOUT)
        seconds, said = end_one(process, workers, rank, signal.SIGSTOP)
        assert f"rank {rank} sent no heartbeat" in said or f"rank {rank} hangs" in said, said
        assert seconds < TIMEOUT + 2 + slack
        slowest = max(slowest, seconds)
    report(
        f"rank stopped: {count} of {count} named within {TIMEOUT:g} + {2 + slack:g} s "
        f"(slowest {slowest:.2f} s), status 1, 0 orphans"
    )


@pytest.mark.torture
def test_a_killed_launcher_leaves_no_orphan(
    tmp_path: Path, sample_corpora: Corpora, report: Report, slack: float
) -> None:
    for number in range(10):  # the default tests do this with stand-ins: tests/launch/test_ranks.py
        process, workers = two_ranks(tmp_path / f"run-{number}", sample_corpora("BERT-C"))
        process.kill()
        finish(process)
        _, alive = psutil.wait_procs(workers, timeout=2 + slack)
        assert not alive
    report("launcher killed: 10 of 10 left no orphan")


@counts(3, 100)
def test_the_lock_of_a_run_names_its_holder_and_dies_with_it(
    count: int, tmp_path: Path, report: Report
) -> None:
    run = Run(tmp_path)
    hold = "import sys, time; from fpm_cli.runs.run import Path, Run\n"
    hold += "with Run(Path(sys.argv[1])).lock(): print(flush=True); time.sleep(60)"
    for _ in range(count):
        with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE) as holder:
            assert holder.stdout
            holder.stdout.readline()
            with pytest.raises(UsageError, match=f"pid {holder.pid} on {os.uname().nodename}"), run.lock():
                pass
            holder.kill()
            holder.wait()
            with run.lock():
                pass
    report(f"run locked: {count} of {count} second processes refused, naming the holder; 0 locks outlived it")
