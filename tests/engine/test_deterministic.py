"""`engine.deterministic`: kernels that compute the same bits each time, while a run trains and no longer."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from tests.small_runs import tiny


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_run_chooses_deterministic_kernels_where_it_says_so(
    deterministic: bool,
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen: list[tuple[bool, bool, str | None]] = []
    step = TrainingEngine.step

    def watched_step(self, *arguments, **named):  # type: ignore[no-untyped-def]
        enabled = torch.are_deterministic_algorithms_enabled()
        filled = torch.utils.deterministic.fill_uninitialized_memory and enabled
        seen.append((enabled, filled, os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return step(self, *arguments, **named)

    monkeypatch.setattr(TrainingEngine, "step", watched_step)
    flags = [
        *tiny("CPM-X-S", "train.steps=1", "model.num_layers=2"),
        "--corpus",
        str(sample_corpora("CPM-X-S")),
    ]
    flags += ["--set", f"engine.deterministic={str(deterministic).lower()}", "--out", str(tmp_path / "run")]
    assert fpm(["--quiet", *flags]) == 0
    assert seen == [(deterministic, False, ":4096:8" if deterministic else None)]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
