"""Signals to the real command line: the step is saved, the status is 75, and nothing is lost on resume."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.small_runs import finish, metrics, start, tiny, wait_for_step
from tests.torture.scale import counts

LAUNCHER, ONE_RANK, EVERYONE = "the launcher", "one rank", "everyone, as SLURM does"
CASES = [
    (2, signal.SIGUSR1, ONE_RANK),
    (1, signal.SIGINT, LAUNCHER),
    (2, signal.SIGTERM, LAUNCHER),
    (1, signal.SIGTERM, LAUNCHER),
    (2, signal.SIGUSR1, EVERYONE),
    (1, signal.SIGUSR1, LAUNCHER),
    (2, signal.SIGTERM, ONE_RANK),
    (2, signal.SIGUSR1, LAUNCHER),
]


def workers(process: subprocess.Popen[str], run: Path, nproc: int) -> list[psutil.Process]:
    """The processes that train, by rank; a lone one is its launcher."""
    if nproc == 1:
        return [psutil.Process(process.pid)]
    beats = [run / "logs" / f"rank-{rank}.beat" for rank in range(nproc)]
    return [psutil.Process(json.loads(beat.read_text())["pid"]) for beat in beats]


def send(
    process: subprocess.Popen[str], ranks: list[psutil.Process], number: signal.Signals, receiver: str
) -> None:
    """Signal while the ranks are stopped, and let them go on once it has come to them."""
    receivers = {ONE_RANK: ranks[-1:], LAUNCHER: [], EVERYONE: ranks}[receiver]
    for rank in receivers:
        rank.send_signal(number)
    if receiver != ONE_RANK:
        process.send_signal(number)
    wait(lambda: all(pending(rank.pid, number) for rank in receivers or ranks))
    for rank in ranks:
        rank.resume()


def stop(ranks: list[psutil.Process]) -> None:
    """Every thread stands still when this returns."""
    for rank in ranks:
        rank.suspend()
    threads = [task / "stat" for rank in ranks for task in Path(f"/proc/{rank.pid}/task").iterdir()]
    wait(lambda: all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads))


def pending(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()  # proc(5)
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@counts(2, 24)
def test_a_signal_saves_the_step_and_resume_goes_on_from_it(
    count: int, tmp_path: Path, sample_corpora: Callable[[str], Path], report: Callable[[str], None]
) -> None:
    new = [*tiny("BERT-C", "train.steps=100000"), "--corpus", str(sample_corpora("BERT-C"))]
    slowest, resumes = 0.0, 0
    for index in range(count):
        nproc, number, receiver = CASES[index % len(CASES)]
        run = tmp_path / f"run-{nproc}"
        flags = ["pretrain", "--resume"] if run.exists() else new
        before = max(metrics(run, "train")) if run.exists() else 0
        resumes += before > 0
        process = start([*flags, "--nproc", str(nproc), "--out", str(run)])
        wait_for_step(run, before + 3)
        ranks = workers(process, run, nproc)
        stop(ranks)  # so that none is taken between counting the steps and the signal
        trained, began = max(metrics(run, "train")), time.monotonic()
        send(process, ranks, number, receiver)
        status, said = finish(process)
        slowest = max(slowest, time.monotonic() - began)
        assert status == 75, said
        step = int((run / "latest").read_text().removeprefix("step-"))
        assert step <= trained + 2, "more than the step that was being trained and one that just began"
        assert sorted(metrics(run, "train")) == list(range(1, step + 1))
    report(
        f"signals: {count} of {count} saved the step and exited with 75 (slowest {slowest:.2f} s after the "
        f"signal), {resumes} of them after a resume, no step lost or doubled"
    )
