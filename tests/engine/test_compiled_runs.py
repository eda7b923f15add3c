"""Runs with the compiled operators: resumed exactly, on any ranks, continued by the reference and back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.cli.app import run as fpm
from fpm_cli.runs.run import Run
from tests.preloaded import Preloaded
from tests.small_runs import metrics, tiny

pytestmark = pytest.mark.usefixtures("compiled")

CONSTANT = ("train.schedule=constant", "train.warmup_steps=0", "model.num_layers=4")
AUTO, REFERENCE = "engine.kernels=auto", "engine.kernels=reference"


def train(run: Path, corpus: Path, preset: str, *assignments: str) -> None:
    flags = [*tiny(preset, *CONSTANT, *assignments), "--corpus", str(corpus), "--out", str(run)]
    assert fpm(["-q", *flags]) == 0


def resume(run: Path, *assignments: str) -> None:
    values = [flag for assignment in assignments for flag in ("--set", assignment)]
    assert fpm(["-q", "pretrain", "--resume", "--out", str(run), "--allow-config-change", *values]) == 0


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize("preset", ["CPM-X-S", "BERT-C", "CPM-2-X-S"])
def test_a_resumed_run_is_bit_identical(
    tmp_path: Path, sample_corpora: Callable[[str], Path], preset: str, zero_stage: int
) -> None:
    corpus, whole, parted = sample_corpora(preset), tmp_path / "whole", tmp_path / "parted"
    settings = (AUTO, "model.dropout=0.1", f"engine.zero_stage={zero_stage}")
    train(whole, corpus, preset, *settings, "train.steps=4")
    train(parted, corpus, preset, *settings, "train.steps=2")
    resume(parted, "train.steps=4")
    assert metrics(parted, "train") == metrics(whole, "train")
    for name in ("weights-0.safetensors", "optimizer-0.safetensors"):
        ours, theirs = ((run / "checkpoints" / "step-4" / name).read_bytes() for run in (parted, whole))
        assert ours == theirs


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize(("first", "second"), [(AUTO, REFERENCE), (REFERENCE, AUTO)])
def test_a_checkpoint_of_one_implementation_continues_with_the_other(
    tmp_path: Path, sample_corpora: Callable[[str], Path], first: str, second: str, zero_stage: int
) -> None:
    corpus, whole, mixed = sample_corpora("CPM-X-S"), tmp_path / "whole", tmp_path / "mixed"
    settings = ("model.dropout=0", f"engine.zero_stage={zero_stage}")
    train(whole, corpus, "CPM-X-S", *settings, first, "train.steps=6")
    train(mixed, corpus, "CPM-X-S", *settings, first, "train.steps=3")
    resume(mixed, second, "train.steps=6")
    losses, expected = metrics(mixed, "train"), metrics(whole, "train")
    assert losses == pytest.approx(expected, abs=1e-4)
    assert losses[6] < losses[1] - 0.1, "a curve that falls, so that a difference could show"
    weights, _ = load_weights(Run.open(mixed))
    others, _ = load_weights(Run.open(whole))
    for name, weight in others.items():
        assert float((weights[name] - weight).abs().max()) < 1e-3, name


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_two_processes_train_as_one(
    tmp_path: Path, sample_corpora: Callable[[str], Path], zero_stage: int, preloaded: Preloaded
) -> None:
    corpus = sample_corpora("CPM-2-X-S")
    settings = (AUTO, "model.dropout=0", "train.steps=4", f"engine.zero_stage={zero_stage}")
    train(tmp_path / "one", corpus, "CPM-2-X-S", *settings)
    flags = [*tiny("CPM-2-X-S", *CONSTANT, *settings), "--corpus", str(corpus), "--nproc", "2"]
    preloaded.fpm([*flags, "--out", str(tmp_path / "two")])
    assert metrics(tmp_path / "two", "train") == pytest.approx(metrics(tmp_path / "one", "train"), abs=1e-4)
