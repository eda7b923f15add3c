"""An experiment tracker receives the rows of metrics.jsonl; without it, one line says what to install."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.config.resolve import resolve
from fpm_cli.reports.run_facts import find_runs
from fpm_cli.reports.run_groups import group_runs
from fpm_cli.runs.metrics import read_rows
from fpm_cli.runs.tracking import Tracker, open_tracker, row_values
from tests.reports.report_runs import write_run
from tests.small_runs import tiny

# Their own and their dependencies' deprecations are not ours.
foreign_warnings = pytest.mark.filterwarnings("ignore")
SMALL = ("train.steps=3", "train.eval_every=2", "model.num_layers=2")


def expected(run: Path) -> dict[tuple[str, int], float]:
    """(`kind/name`, step) -> value, straight from metrics.jsonl."""
    return {
        (f"{row['kind']}/{name}", row["step"]): value
        for row in read_rows(run / "metrics.jsonl")
        for name, value in row.items()
        if name not in ("kind", "step") and isinstance(value, int | float)
    }


def pretrain(run: Path, corpus: Path, tool: str, *settings: str) -> int:
    flags = tiny("CPM-X-S", *SMALL, f"track.tool={tool}", "track.project=fpm-test", *settings)
    return fpm(["-q", *flags, "--corpus", str(corpus), "--out", str(run)])


@foreign_warnings
def test_trackio_reads_back_what_metrics_jsonl_has(
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/elsewhere")  # not asked for: track.online is false
    pytest.importorskip("trackio", exc_type=ImportError)
    from trackio.sqlite_storage import SQLiteStorage

    run = tmp_path / "gpt"
    assert pretrain(run, sample_corpora("CPM-X-S"), "trackio") == 0
    logs = SQLiteStorage.get_logs("fpm-test", "gpt")
    read_back = {
        (name, entry["step"]): value
        for entry in logs
        for name, value in entry.items()
        if name not in ("step", "timestamp")
    }
    assert read_back == expected(run) and len(read_back) > 20
    assert "Trackio" not in capfd.readouterr().out  # stdout is the result's


@foreign_warnings
def test_mlflow_reads_back_what_metrics_jsonl_has(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    mlflow = pytest.importorskip("mlflow", exc_type=ImportError)
    run = tmp_path / "gpt"
    assert pretrain(run, sample_corpora("CPM-X-S"), "mlflow") == 0
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fpm-test")
    (found,) = client.search_runs([experiment.experiment_id])
    read_back = {
        (name, metric.step): metric.value
        for name in found.data.metrics
        for metric in client.get_metric_history(found.info.run_id, name)
    }
    assert found.info.run_name == "gpt" and read_back == expected(run)


@foreign_warnings
def test_wandb_writes_offline_files_into_the_run(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    pytest.importorskip("wandb", exc_type=ImportError)
    run = tmp_path / "gpt"
    assert pretrain(run, sample_corpora("CPM-X-S"), "wandb") == 0
    (record,) = (run / "wandb").glob("offline-run-*/*.wandb")
    assert b"train/loss" in record.read_bytes() and b"validation/loss" in record.read_bytes()


def test_a_tracker_that_is_not_installed_is_refused_and_leaves_nothing(
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    corpus = sample_corpora("CPM-X-S")
    capsys.readouterr()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "trackio" else find(name, *rest)
    )
    run = tmp_path / "gpt"
    assert pretrain(run, corpus, "trackio") == 3
    message = capsys.readouterr().err
    assert "pip install 'fpm-depth[trackio]'" in message and message.count("\n") == 1
    assert not run.exists()


def test_a_tracker_that_fails_ends_tracking_and_not_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Tracker):
        def __init__(self, *_: Any) -> None:
            pass

        def log(self, values: Any, step: int) -> None:
            raise OSError("no space left")

        def close(self) -> None:
            raise AssertionError("it ended before")

    monkeypatch.setattr("fpm_cli.runs.tracking.require_tool", lambda config: None)
    monkeypatch.setitem(__import__("fpm_cli.runs.tracking", fromlist=["TOOLS"]).TOOLS, "trackio", Failing)
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=["track.tool=trackio"]).config
    tracker = open_tracker(config, tmp_path, 0)
    assert tracker
    for step in (1, 2):
        tracker.log({"train/loss": 1.0}, step)
    tracker.close()
    assert [record.getMessage() for record in caplog.records] == [
        "tracking ends, metrics.jsonl goes on: OSError: no space left"
    ]


def test_the_values_of_a_row_are_its_finite_numbers() -> None:
    row = {"kind": "train", "step": 3, "loss": 2.5, "tokens": 7, "lr": None, "skipped": "loss", "ok": True}
    assert row_values(row) == {"train/loss": 2.5, "train/tokens": 7}


def test_tracking_does_not_part_runs_of_one_configuration(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "train.seed=1")
    write_run(tmp_path / "b", "train.seed=2", "track.tool=trackio")
    runs, _ = find_runs(tmp_path)
    assert [len(group.runs) for group in group_runs(runs)] == [2]
