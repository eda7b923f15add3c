"""Spikes in real runs: skipped, rewound and reported, and the same after a resume."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.batches import Batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.pretraining import Pretraining
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.errors import DivergedError
from fpm_cli.models.build import build_model
from tests.preloaded import Preloaded
from tests.small_runs import tiny

QUICK = ("model.num_layers=2", "train.spike_window=8", "train.schedule=constant", "train.warmup_steps=0")
POISONED = range(30, 33)  # global batches, counted from 0
RARE = 2  # a special token that the text does not hold


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some global batches have labels that the model has learnt never to expect."""
    original = Pretraining.micro_batches

    def micro_batches(self: Pretraining, index: int, *arguments: Any) -> list[Batch]:
        batches = original(self, index, *arguments)
        if index in POISONED:
            return [{**batch, "labels": torch.full_like(batch["labels"], RARE)} for batch in batches]
        return batches

    monkeypatch.setattr(Pretraining, "micro_batches", micro_batches)


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def trained(run: Path, corpus: Path, *values: str) -> int:
    flags = tiny("CPM-X-S", *QUICK, *values)
    return fpm(["--quiet", *flags, "--corpus", str(corpus), "--out", str(run)])


def without_times(run: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "tokens_per_second", "memory_bytes")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows(run, "train")]


@pytest.mark.usefixtures("poison")
def test_a_spike_is_skipped_and_told(tmp_path: Path, sample_corpora: Callable[[str], Path]) -> None:
    run = tmp_path / "run"
    assert trained(run, sample_corpora("CPM-X-S"), "train.steps=36", "train.spike_patience=9") == 0
    skipped = {row["step"] for row in rows(run, "train") if "skipped" in row}
    assert {31, 32, 33} <= skipped
    assert {row["step"] for row in rows(run, "skip")} == skipped
    assert not rows(run, "rewind")
    assert [row["step"] for row in rows(run, "train")] == list(range(1, 37))


@pytest.mark.usefixtures("poison")
def test_repeated_spikes_lead_back_and_past_them_also_after_a_resume(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    corpus, through, parted = sample_corpora("CPM-X-S"), tmp_path / "through", tmp_path / "parted"
    every = ("train.save_every=20", "train.spike_patience=3")
    assert trained(through, corpus, "train.steps=44", *every) == 0
    (back,) = rows(through, "rewind")
    assert back["step"] == 20 and "rewound from step 33" in back["message"]
    assert [row["step"] for row in rows(through, "train")] == list(range(1, 45))  # no gaps, no doubles
    assert not any("skipped" in row for row in rows(through, "train") if row["step"] > 20)

    # Parted before the spike, and again where the skipped batches are already behind.
    for steps in (24, 40, 44):
        more = ["--allow-config-change", "--set", f"train.steps={steps}"]
        status = (
            fpm(["-q", "pretrain", "--resume", "--out", str(parted), *more])
            if parted.exists()
            else trained(parted, corpus, f"train.steps={steps}", *every)
        )
        assert status == 0
    assert rows(parted, "rewind")[0]["step"] == 24  # its own last checkpoint: steps 25 to 33 are passed over
    assert [row["step"] for row in rows(parted, "train")] == list(range(1, 45))


def test_a_run_without_a_checkpoint_begins_again_past_the_spike(
    tmp_path: Path, sample_corpora: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had begun with the batches after the spike: initial weights, and no optimizer states."""
    original, poisoned = Pretraining.micro_batches, {2, 3}
    moved = {"on": False}

    def micro_batches(self: Pretraining, index: int, *arguments: Any) -> list[Batch]:
        batches = original(self, index + 4 * moved["on"], *arguments)
        if index in poisoned and not moved["on"]:
            return [{**batch, "loss_mask": batch["loss_mask"] * math.nan} for batch in batches]
        return batches

    monkeypatch.setattr(Pretraining, "micro_batches", micro_batches)
    for stage in (0, 1, 3):
        corpus, through, fresh = sample_corpora("CPM-X-S"), tmp_path / f"t{stage}", tmp_path / f"f{stage}"
        values = ("train.steps=6", "train.spike_patience=2", "model.dropout=0", f"engine.zero_stage={stage}")
        moved["on"] = False
        assert trained(through, corpus, *values) == 0
        (back,) = rows(through, "rewind")
        assert back["step"] == 0 and "rewound from step 4 to the initial weights" in back["message"]
        moved["on"] = True
        assert trained(fresh, corpus, *values) == 0
        assert [row["loss"] for row in rows(through, "train")] == [
            row["loss"] for row in rows(fresh, "train")
        ]


@pytest.mark.usefixtures("poison")
def test_a_run_resumed_after_going_back_is_the_one_that_was_not(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    corpus, through, parted = sample_corpora("CPM-X-S"), tmp_path / "through", tmp_path / "parted"
    every = ("train.save_every=20", "train.spike_patience=3")
    assert trained(through, corpus, "train.steps=44", *every) == 0
    assert trained(parted, corpus, "train.steps=40", *every) == 0
    more = ["--allow-config-change", "--set", "train.steps=44"]
    assert fpm(["-q", "pretrain", "--resume", "--out", str(parted), *more]) == 0
    assert without_times(through) == without_times(parted)
    ours, theirs = (run / "checkpoints/step-44/weights-0.safetensors" for run in (through, parted))
    assert ours.read_bytes() == theirs.read_bytes()


def test_two_ranks_skip_the_same_steps(
    tmp_path: Path, sample_corpora: Callable[[str], Path], preloaded: Preloaded
) -> None:
    # so small a threshold that ordinary noise is skipped; were ranks to differ, one would wait for the other
    run, corpus = tmp_path / "run", str(sample_corpora("CPM-X-S"))
    flags = tiny("CPM-X-S", *QUICK, "train.steps=30", "train.spike_sigmas=1", "train.spike_patience=99")
    command = preloaded.start([*flags, "--corpus", corpus, "--out", str(run), "--nproc", "2"])
    status, messages = command.wait()
    assert status == 0, messages
    assert rows(run, "skip")
    assert "skipped: " in messages


def test_a_last_step_that_is_not_finite_is_told_in_the_closing_line(
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = Pretraining.micro_batches

    def micro_batches(self: Pretraining, index: int, *arguments: Any) -> list[Batch]:
        factor = math.nan if index == 2 else 1
        batches = original(self, index, *arguments)
        return [{**batch, "loss_mask": batch["loss_mask"] * factor} for batch in batches]

    monkeypatch.setattr(Pretraining, "micro_batches", micro_batches)
    run, corpus = tmp_path / "run", sample_corpora("CPM-X-S")
    assert trained(run, corpus, "train.steps=3") == 0, capsys.readouterr().err
    assert rows(run, "train")[-1]["loss"] is None
    assert "step 3, train loss not finite, validation loss" in capsys.readouterr().out
    assert fpm(["-q", "pretrain", "--resume", "--out", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_loss"] is None


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_refused_step_changes_no_bit_of_weights(stage: int, precision: str) -> None:
    values = [
        f"engine.zero_stage={stage}",
        f"engine.precision={precision}",
        *("model.num_layers=2", "train.global_batch=4", "train.micro_batch=2"),
    ]
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config
    with distributed_world(60) as world:
        skipping = False

        def should_skip(loss: float, norm: float) -> str | None:
            return f"{loss:.3f} {norm:.3f}" if skipping else None

        engine = TrainingEngine(build_model(config), config, world, should_skip)
        batches = [synthetic_batch(config, 2), synthetic_batch(config, 2)]
        engine.step(batches, 1e-3)
        before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
        skipping = True
        refused = engine.step(batches, 1e-3)
        skipping = False
        assert refused.skipped == f"{refused.loss:.3f} {refused.gradient_norm:.3f}"
        assert all(torch.equal(before[name], p) for name, p in engine.model.named_parameters())
        taken = engine.step(batches, 1e-3)
        assert taken.skipped is None and taken.loss == refused.loss
        assert not all(torch.equal(before[name], p) for name, p in engine.model.named_parameters())


@pytest.mark.parametrize("stage", [1, 3])
def test_fp16_lowers_its_loss_scale_to_a_floor_and_ends_there(
    stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [
        f"engine.zero_stage={stage}",
        "engine.precision=fp16",
        "engine.min_loss_scale=16384",
        "engine.deepspeed.fp16.hysteresis=1",
        *("model.num_layers=2", "train.global_batch=2", "train.micro_batch=2"),
    ]
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config
    with distributed_world(60) as world:
        from deepspeed.accelerator import get_accelerator

        # Processors without fp16 units compute in it too, slowly; DeepSpeed asks first.
        monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)
        engine = TrainingEngine(build_model(config), config, world)
        batch = synthetic_batch(config, 2)
        fine = engine.step([batch], 1e-3)
        assert fine.skipped is None and fine.loss_scale == 65536
        for parameter in engine.model.parameters():  # gradients that no loss scale can hold
            parameter.register_hook(lambda gradient: gradient * float("inf"))
        scales = []
        with pytest.raises(DivergedError, match=r"smallest loss scale \(16384\).*bf16"):
            for _ in range(9):
                overflowed = engine.step([batch], 1e-3)
                assert overflowed.overflowed and "overflow" in str(overflowed.skipped)
                scales.append(overflowed.loss_scale)
        assert scales == [65536, 32768]
