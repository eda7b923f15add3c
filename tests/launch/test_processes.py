"""Several processes on the real command line; deaths and signals are in tests/torture/."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.runs.run import Run
from tests.preloaded import Preloaded
from tests.small_runs import finish, metrics, start, tiny, wait_for_step

STEPS = "train.steps=10"


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path], preloaded: Preloaded
) -> Path:
    """Ten steps of one process, which the others must match."""
    run = tmp_path_factory.mktemp("alone") / "run"
    flags = [*tiny("CPM-X-S", STEPS), "--corpus", str(sample_corpora("CPM-X-S"))]
    preloaded.fpm([*flags, "--nproc", "1", "--out", str(run)])
    return run


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_processes_learn_what_one_learns(
    stage: int, alone: Path, tmp_path: Path, sample_corpora: Callable[[str], Path], preloaded: Preloaded
) -> None:
    run = tmp_path / "run"
    flags = [*tiny("CPM-X-S", STEPS, f"engine.zero_stage={stage}", "train.micro_batch=1")]
    flags += ["--corpus", str(sample_corpora("CPM-X-S")), "--nproc", "2", "--out", str(run)]
    compiled = tmp_path / "compiled"  # a kill while torch compiles would leave a lock there for ever
    preloaded.fpm(flags, TORCH_EXTENSIONS_DIR=str(compiled))
    assert not list(compiled.glob("**/*"))
    ours, theirs = metrics(alone, "train"), metrics(run, "train")
    assert sorted(theirs) == list(range(1, 11))
    assert list(Run(run).manifest().launches[-1].command[1:]) == flags  # as it was typed, not a rank's
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4
    assert metrics(run, "validation")[10] == pytest.approx(metrics(alone, "validation")[10], abs=1e-4)


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
