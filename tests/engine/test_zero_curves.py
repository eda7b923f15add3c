"""BERT-E-S at laptop width for 50 steps: every ZeRO stage on two processes against one process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_runs import finish, metrics, start

pytestmark = pytest.mark.torture  # the default tests do it with a smaller model: test_processes.py
STEPS, TOLERANCE = 50, 1e-4
FLAGS = ["pretrain", "--preset", "BERT-E-S", "--proxy"]
FLAGS += ["--set", f"train.steps={STEPS}", "--set", "model.dropout=0"]


def curve(run: Path, corpus: Path, nproc: int, stage: int) -> dict[int, float]:
    where = ["--corpus", str(corpus), "--nproc", str(nproc), "--set", f"engine.zero_stage={stage}"]
    status, said = finish(start([*FLAGS, *where, "--out", str(run)]), 600)
    assert status == 0, said
    return metrics(run, "train")


def test_the_curves_of_two_processes_are_those_of_one(
    tmp_path: Path, sample_corpora: Callable[[str], Path], report: Callable[[str], None]
) -> None:
    corpus = sample_corpora("BERT-E-S")
    alone = curve(tmp_path / "alone", corpus, 1, 0)
    assert sorted(alone) == list(range(1, STEPS + 1))
    assert alone[STEPS] < alone[1] - 0.5, "a curve that falls, so that a difference could show"
    for stage in (0, 1, 2, 3):
        two = curve(tmp_path / f"zero-{stage}", corpus, 2, stage)
        apart = max(abs(two[step] - alone[step]) for step in alone)
        report(
            f"ZeRO {stage}, two processes: BERT-E-S proxy, the losses of {STEPS} steps within {apart:.1e} "
            f"nats of one process's (allowed {TOLERANCE:.0e})"
        )
        assert apart < TOLERANCE
