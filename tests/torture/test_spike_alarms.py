"""Row: planted spikes in real runs are skipped, and hardly any other step is (`fpm_cli/engine/spikes.py`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.engine.pretraining import Pretraining
from fpm_cli.runs.metrics import read_rows
from tests.small_runs import tiny
from tests.torture.scale import counts

STEPS = 400
PLANTED = range(201, STEPS, 50)  # far apart: each alone, so that training goes on and never back


@counts(1, 5)
def test_planted_spikes_are_skipped_and_under_one_percent_of_the_other_steps(
    count: int,
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[[str], None],
) -> None:
    clean = Pretraining.micro_batches

    def with_spikes(self: Pretraining, index: int, *arguments: Any) -> list[Any]:
        batches = clean(self, index, *arguments)
        if index + 1 in PLANTED:  # labels that the model has learnt never to expect
            return [{**batch, "labels": torch.zeros_like(batch["labels"])} for batch in batches]
        return batches

    monkeypatch.setattr(Pretraining, "micro_batches", with_spikes)
    found = alarms = 0
    for seed in range(1, count + 1):
        run = tmp_path / f"run-{seed}"
        flags = tiny("CPM-X-S", f"train.steps={STEPS}", "model.num_layers=2", f"train.seed={seed}")
        assert fpm(["-q", *flags, "--corpus", str(sample_corpora("CPM-X-S")), "--out", str(run)]) == 0
        skipped = {row["step"] for row in read_rows(run / "metrics.jsonl", "skip")}
        found += len(skipped & set(PLANTED))
        alarms += len(skipped - set(PLANTED))
        assert [row["step"] for row in read_rows(run / "metrics.jsonl", "train")] == list(range(1, STEPS + 1))
        assert not read_rows(run / "metrics.jsonl", "rewind")
    planted, steps = count * len(PLANTED), count * (STEPS - len(PLANTED))
    report(
        f"spikes: {found} of {planted} planted ones skipped in {count} runs; {alarms} alarms in the other "
        f"{steps:,} steps ({alarms / steps:.2%}, allowed 1 %)"
    )
    assert found == planted and alarms < 0.01 * steps
