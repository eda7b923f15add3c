"""Several processes, signals and deaths, on the real command line."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.small_runs import finish, metrics, start, tiny

SECONDS = 120.0


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and max(metrics(run, "train"), default=0) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} did not come within {SECONDS} s")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> Path:
    """Twenty steps of one process, which the others must match."""
    run = tmp_path_factory.mktemp("alone") / "run"
    flags = [*tiny("CPM-X-S", "train.steps=20"), "--corpus", str(sample_corpora("CPM-X-S"))]
    process = start([*flags, "--nproc", "1", "--out", str(run)])
    status, said = finish(process)
    assert status == 0, said
    return run


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_learn_what_one_learns(
    stage: int, alone: Path, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run = tmp_path / "run"
    flags = [*tiny("CPM-X-S", "train.steps=20", f"engine.zero_stage={stage}", "train.micro_batch=1")]
    flags += ["--corpus", str(sample_corpora("CPM-X-S")), "--nproc", "2", "--out", str(run)]
    process = start(flags)
    status, said = finish(process)
    assert status == 0, said
    ours, theirs = metrics(alone, "train"), metrics(run, "train")
    assert sorted(theirs) == list(range(1, 21))
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4
    assert metrics(run, "validation")[20] == pytest.approx(metrics(alone, "validation")[20], abs=1e-4)


@pytest.mark.parametrize(("nproc", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_saves_the_step_and_resume_goes_on_from_it(
    nproc: int, number: signal.Signals, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run = tmp_path / "run"
    flags = [*tiny("BERT-C", "train.steps=100000"), "--corpus", str(sample_corpora("BERT-C"))]
    process = start([*flags, "--nproc", str(nproc), "--out", str(run)])
    wait_for_step(run, 3)
    process.send_signal(number)
    assert finish(process)[0] == 75
    step = int((run / "latest").read_text().removeprefix("step-"))
    assert max(metrics(run, "train")) == step
    resumed = start(["pretrain", "--resume", "--out", str(run)])
    wait_for_step(run, step + 2)
    resumed.send_signal(signal.SIGINT)
    assert finish(resumed)[0] == 75
    assert sorted(metrics(run, "train")) == list(range(1, max(metrics(run, "train")) + 1))


def test_a_killed_rank_ends_the_run_quickly_and_leaves_no_orphan(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run = tmp_path / "run"
    flags = [
        *tiny("BERT-C", "train.steps=100000", "train.log_every=1"),
        "--corpus",
        str(sample_corpora("BERT-C")),
    ]
    process = start([*flags, "--nproc", "2", "--out", str(run)])
    wait_for_step(run, 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    workers[1].kill()
    killed = time.monotonic()
    status, message = finish(process)
    assert status == 1
    assert time.monotonic() - killed < 15
    assert "rank" in message
    assert not [worker for worker in workers if worker.is_running() and worker.status() != "zombie"]
    (launch,) = json.loads((run / "manifest.json").read_text())["launches"]
    assert launch["last_step"] >= 2 and launch["seconds"] > 0  # lost steps are charged all the same


def test_a_second_process_on_a_run_is_refused(tmp_path: Path, sample_corpora: Callable[[str], Path]) -> None:
    run = tmp_path / "run"
    flags = [*tiny("BERT-C", "train.steps=100000"), "--corpus", str(sample_corpora("BERT-C"))]
    first = start([*flags, "--out", str(run)])
    wait_for_step(run, 1)
    second = start(["pretrain", "--resume", "--out", str(run)])
    status, message = finish(second)
    assert status == 2 and "another process" in message
    first.kill()
    finish(first)
