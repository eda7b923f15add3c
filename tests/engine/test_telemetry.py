"""What a launch records: TensorBoard keeps every point over a resume, progress lines replace each other."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fpm_cli.accounting.flops import StepFlops
from fpm_cli.cli.app import run as fpm
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import StepResult
from fpm_cli.engine.progress_log import ProgressLog
from fpm_cli.engine.world import World, has_native_bf16
from fpm_cli.runs.run import Run
from tests.fake_gpus import FakeGpus
from tests.small_runs import metrics, tiny
from tests.terminal import visible_lines


@pytest.fixture
def progress(tmp_path: Path) -> ProgressLog:
    config = resolve("CPM-X-S", proxy=True, environment={}).config
    run = Run.create(tmp_path / "run", config, None)
    log = ProgressLog(run, config, World(0, 1, torch.device("cpu")), 0, quiet=False)
    log.console = Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False, _environ={})
    return log


def report(log: ProgressLog, step: int, launch_seconds: float) -> None:
    result = StepResult({"causal": 3.0}, 1.0)
    log.step(
        step,
        result,
        StepFlops(1, 1, 10),
        1e-3,
        step_seconds=1.0,
        launch_seconds=launch_seconds,
        last_step=600,
    )


def test_the_bar_leaves_nothing_behind_and_is_cut_to_the_terminal(progress: ProgressLog) -> None:
    assert isinstance(progress.console.file, io.StringIO)
    report(progress, 2, 1e5)  # hours left
    report(progress, 3, 0.3)
    progress.validating(1, 2)
    progress.message(4, "saved")
    progress.close()
    written = progress.console.file.getvalue()
    for part in ("training", "3/600 steps", "validating", "1/2 passes"):
        assert part in re.sub(r"\x1b\[[\d;]*m", "", written)
    assert visible_lines(written) == ["step      4  saved"]


def test_a_step_that_is_kept_is_a_line_above_the_bar(progress: ProgressLog) -> None:
    assert isinstance(progress.console.file, io.StringIO)
    report(progress, 20, 5.0)
    report(progress, 21, 5.5)
    progress.close()
    (line,) = visible_lines(progress.console.file.getvalue())
    assert line.startswith("step     20  loss 3.0000  lr 1.00e-03") and len(line) <= 80


def test_without_a_terminal_kept_steps_are_lines_with_the_time_left(progress: ProgressLog) -> None:
    progress.console = Console(file=(written := io.StringIO()), force_terminal=False, width=400)
    for step in (1, 2, 20):
        report(progress, step, step * 2.0)
    progress.close()
    first, last = written.getvalue().splitlines()
    assert first.startswith("step      1/600") and last.startswith("step     20/600")
    assert last.endswith("left 19:20")  # 580 steps of two seconds


def scalars(run: Path, name: str) -> list[int]:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


def test_tensorboard_keeps_the_step_that_a_run_resumes_from(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run, corpus = tmp_path / "run", str(sample_corpora("CPM-X-S"))
    every = ("train.eval_every=1", "train.save_every=1", "model.num_layers=2")
    assert fpm(["-q", *tiny("CPM-X-S", "train.steps=3", *every), "--corpus", corpus, "--out", str(run)]) == 0
    longer = ["--allow-config-change", "--set", "train.steps=5"]
    assert fpm(["-q", "pretrain", "--resume", "--out", str(run), *longer]) == 0
    assert sorted(metrics(run, "train")) == [1, 2, 3, 4, 5]
    for name in ("train/loss", "validation/loss"):
        assert scalars(run, name) == [1, 2, 3, 4, 5]


def test_emulated_bf16_is_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = FakeGpus(has_native_bf16=False).install(monkeypatch)  # as a V100
    assert not has_native_bf16(torch.device("cuda"))
    engine = resolve("CPM-X-S", environment={}).config.engine
    assert engine.resolve_precision(has_bf16=has_native_bf16(torch.device("cuda"))) == "fp32"
    gpus.has_native_bf16 = True
    assert engine.resolve_precision(has_bf16=has_native_bf16(torch.device("cuda"))) == "bf16"
