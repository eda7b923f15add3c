"""`fpm runs`: lists with filters, one run in detail, comparisons equal to the files' own numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.cli.app import run as fpm
from tests.reports.report_runs import write_run, write_task_run


@pytest.fixture(autouse=True)
def no_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert fpm([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def listed(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> list[list[str]]:
    groups = answer(capsys, "runs", "list", str(folder), *options)["groups"]
    return [[Path(run["run"]).name for run in group["runs"]] for group in groups]


def test_filters_and_order_of_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "a", validation_losses={3: 5.0})
    write_run(runs / "b", preset="EPM-X-S", validation_losses={3: 4.0}, state="stopped")
    write_task_run(runs / "c", [0, 1], [0, 1])
    assert listed(capsys, runs, "--sort", "name") == [["a"], ["b"], ["c"]]
    assert listed(capsys, runs, "--preset", "epm-x-s") == [["b"]]
    assert listed(capsys, runs, "--task", "tnews") == [["c"]]
    assert listed(capsys, runs, "--finished", "--sort", "name") == [["a"], ["c"]]
    assert listed(capsys, runs, "--sort", "loss") == [["c"], ["b"], ["a"]]


def test_seeds_are_one_line_unless_each_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, loss in ((1, 4.0), (2, 5.0), (3, 6.0)):
        write_run(tmp_path / f"r{seed}", f"train.seed={seed}", validation_losses={3: loss})
    (group,) = answer(capsys, "runs", "list", str(tmp_path))["groups"]
    assert group["seeds"] == [1, 2, 3]
    assert group["validation_loss"]["mean"] == pytest.approx(5.0)
    assert group["validation_loss"]["low"] == pytest.approx(5 - 4.302653 / 3**0.5, abs=1e-4)
    assert listed(capsys, tmp_path, "--each") == [["r1"], ["r2"], ["r3"]]
    assert fpm(["runs", "list", str(tmp_path)]) == 0
    assert "and 2 more seeds" in capsys.readouterr().out


def test_an_unreadable_folder_is_named_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.toml").touch()
    assert fpm(["runs", "list", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "good" in printed.out and str(tmp_path / "bad") in printed.err


def test_a_comparison_has_the_numbers_of_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(
        tmp_path / "a", validation_losses={1: 7.5, 2: 6.5, 3: 5.5}, losses={1: 8.0, 2: 7.0, 3: 5.25}
    )
    second = write_run(
        tmp_path / "b", "train.lr=0.5", validation_losses={2: 6.0, 3: 5.0}, losses={1: 8.0, 3: 4.75}
    )
    document = answer(capsys, "runs", "compare", str(first), str(second))
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (first, second)
    ]
    for entry, own in zip(document["runs"], rows, strict=True):
        train = [row for row in own if row["kind"] == "train"]
        validation = [row for row in own if row["kind"] == "validation"]
        assert entry["train_loss"] == train[-1]["loss"] and entry["step"] == train[-1]["step"]
        assert entry["validation_loss"] == validation[-1]["loss"]
        assert entry["costs"]["measured_seconds_per_step"] == 0.5
    assert document["validation_losses"] == {"2": [6.5, 6.0], "3": [5.5, 5.0]}
    assert document["settings"] == {"train.lr": [0.01, 0.5]}


def test_losses_of_different_objectives_are_not_put_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gpt = write_run(tmp_path / "gpt", validation_losses={3: 5.5})
    bert = write_run(tmp_path / "bert", preset="BERT-C", validation_losses={3: 4.5})
    other = write_run(tmp_path / "other", validation_losses={3: 6.5}, tokenizer_fingerprint="another")
    document = answer(capsys, "runs", "compare", str(gpt), str(bert))
    assert document["validation_losses"] == {}
    assert [run["loss_unit"] for run in document["runs"]] == ["token", "masked token"]
    assert answer(capsys, "runs", "compare", str(gpt), str(other))["validation_losses"] == {}
    html = tmp_path / "comparison.html"
    assert fpm(["runs", "compare", str(gpt), str(bert), "--html", str(html)]) == 0
    for text in (capsys.readouterr().out, html.read_text(encoding="utf-8")):
        assert "nats per token and per masked token" in " ".join(text.split())
    assert fpm(["runs", "list", ".", "--sort", "loss"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "finished" in line]
    assert ["masked" in row for row in rows] == [True, False, False]  # 4.5, then 5.5 and 6.5


def test_scores_are_compared_in_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [0, 1, 2] * 20
    first = write_task_run(tmp_path / "a", [0] * 60, labels)
    second = write_task_run(
        tmp_path / "b", [label if n < 45 else 0 for n, label in enumerate(labels)], labels
    )
    html = tmp_path / "comparison.html"
    document = answer(capsys, "runs", "compare", str(first), str(second), "--html", str(html))
    accuracy = document["runs"][1]["minus_first"]["dev"]["accuracy"]
    right_before, right_after = 20 / 60, (45 + 5) / 60
    assert accuracy["difference"] == pytest.approx(right_after - right_before)
    low, high = accuracy["ci95"]
    assert 0.35 < low < right_after - right_before < high < 0.65 and accuracy["p_value"] < 0.01
    assert "Paired differences" in html.read_text() and "+0.5000" in html.read_text()


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a")
    assert fpm(["runs", "compare", str(run)]) == 2
    assert fpm(["runs", "compare", str(run), str(run)]) == 2
    assert fpm(["runs", "compare", str(run), str(tmp_path / "absent")]) == 3


def test_show_lists_what_differs_from_the_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", "train.lr=0.5", validation_losses={3: 5.5})
    document = answer(capsys, "runs", "show", str(run))
    assert document["changed_settings"] == {"train.lr": [0.01, 0.5]}
    assert document["validation_loss"] == 5.5 and document["launches"][0]["last_step"] == 3
    assert fpm(["runs", "show", str(run)]) == 0
    assert "train.lr" in capsys.readouterr().out
