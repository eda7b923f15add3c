"""A study from its command to its page: what it refuses, and what a kill and a resume leave."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score

from fpm_cli.cli.app import run
from fpm_cli.errors import UsageError
from fpm_cli.runs.run import Run
from fpm_cli.study.analysis import NO_PREDICTIONS
from fpm_cli.study.settings import StudySettings
from fpm_cli.study.study import Cell, Study
from fpm_cli.study.workflow import read_outcome
from tests.preloaded import Preloaded
from tests.reports.html_page import Page

SMALL = (
    *("study", "depth", "--preset", "CPM-X-S", "--proxy", "--depths", "2,4", "--seeds", "2", "--steps", "4"),
    *("--set", "train.sequence_length=32", "--set", "train.eval_samples=4", "--set", "train.save_every=2"),
)
MEASURED = ("seconds", "task_seconds", "device_hours", "peak_memory_bytes")


def rows(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, preloaded: Preloaded) -> Path:
    folder = tmp_path_factory.mktemp("study") / "small"
    preloaded.fpm(["--quiet", *SMALL, "--out", str(folder)])
    return folder


def test_a_study_scores_every_cell_and_writes_its_page(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = rows(finished)
    assert [(row["depth"], row["seed"]) for row in scored] == [(2, 1), (2, 2), (4, 1), (4, 2)]
    assert all(row["bits_per_byte"] for row in scored)
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and "http" not in page.replace("http://www.w3.org", "")
    assert run(["study", "show", str(finished), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fpm.study/1"
    assert document["analyses"][0]["verdict"]["candidates"]


def test_the_page_of_a_study_has_verdict_costs_runs_settings_and_data(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and page.links == ["data:,"] and len(page.ids) == len(set(page.ids))
    assert text.count("<desc") == 1
    outcome = read_outcome(Study.open(finished))
    (analysis,) = outcome.analyses
    assert analysis.verdict and analysis.verdict.sentence in text
    for row in outcome.rows:
        assert row.run in text and f"{row.loss:.4f}" in text and f"{row.bits_per_byte:.4f}" in text
    for fact in ("train.sequence_length", "gpt-zh, ", "unigram entropy", "fpm study resume", "cpu"):
        assert fact in text


def test_an_archived_study_without_its_runs_keeps_its_rows(finished: Path, tmp_path: Path) -> None:
    archived = tmp_path / "archived"
    archived.mkdir()
    for name in ("study.toml", "results.jsonl"):
        (archived / name).write_bytes((finished / name).read_bytes())
    before, after = read_outcome(Study.open(finished)), read_outcome(Study.open(archived))
    assert after.rows == before.rows and rows(archived) == rows(finished)
    assert after.analyses[0].verdict == before.analyses[0].verdict
    assert run(["report", str(archived), "--html", str(tmp_path / "page.html")]) == 0
    (archived / "results.jsonl").write_text('{"run": "x", "unknown": 1}\n', encoding="utf-8")
    assert run(["study", "show", str(archived)]) == 6


def test_report_writes_a_study_as_page_and_picture(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html, png = tmp_path / "study.html", tmp_path / "study.png"
    assert run(["report", str(finished), "--html", str(html), "--png", str(png), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(html), str(png)]
    assert png.read_bytes().startswith(b"\x89PNG") and "Depth study" in html.read_text(encoding="utf-8")
    assert run(["report", str(finished), "--prompt", "x"]) == 2
    assert run(["report", str(tmp_path)]) == 3
    assert "neither a run folder" in capsys.readouterr().err


def test_seeds_share_the_order_of_samples_over_depths(finished: Path) -> None:
    study = Study.open(finished)
    shallow, _, deep, _ = study.cells({})
    assert shallow.config.train == deep.config.train
    assert shallow.config.model.model_copy(update={"num_layers": 4}) == deep.config.model


def test_a_killed_study_resumes_to_the_same_results(
    finished: Path, tmp_path: Path, preloaded: Preloaded
) -> None:
    folder = tmp_path / "small"
    process = preloaded.start(["--quiet", *SMALL, "--out", str(folder)])
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    preloaded.fpm(["--quiet", "study", "resume", str(folder)])
    assert rows(folder) == rows(finished)


def test_a_stopped_study_exits_with_75_and_its_runs_are_saved(tmp_path: Path, preloaded: Preloaded) -> None:
    folder = tmp_path / "small"
    arguments = [*SMALL, "--set", "train.steps=100000", "--steps", "100000", "--out", str(folder)]
    process = preloaded.start(["--quiet", *arguments])
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/*/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    status, message = process.wait()
    assert status == 75
    assert "stopped" in message


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--depths", "2,x"], 2, "--depths"),
        (["--depths", "2,2"], 2, "twice"),
        (["--match", "parms"], 2, "did you mean 'params'"),
        (["--width", "65"], 2, "multiple of the head size"),
        (["--tokens", "1e6"], 2, "only one of them"),
        (["--steps", "0"], 2, "positive numbers"),
        (["--steps", "4,8"], 2, "wsd"),
        (["--task", "qqp"], 2, "needs --train and --dev"),
        (["--task", "qqp", "--train", "missing.tsv", "--dev", "missing.tsv"], 3, "no such file"),
        (["--corpus", "missing"], 3, "not a corpus"),
    ],
)
def test_wrong_flags_are_refused_and_leave_nothing(
    flags: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*SMALL, *flags, "--out", str(tmp_path / "study")]) == status
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "study").exists()


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "show", str(tmp_path)]) == 3
    (tmp_path / "study.toml").write_text('name = "x"\n', encoding="utf-8")
    assert run(["study", "resume", str(tmp_path)]) == 6
    capsys.readouterr()


PRAISE = """name = "praise"
language = "en"
labels = ["good", "bad"]
positive = "good"
[[layouts]]
format = "csv"
text_a = "text"
label = "label"
"""


@pytest.fixture(scope="module")
def task_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a task whose label is a word of the text."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "praise.toml").write_text(PRAISE, encoding="utf-8")
    lines = [f"the man said that it was {word} {n},{word}" for n in range(40) for word in ("good", "bad")]
    (folder / "train.csv").write_text("text,label\n" + "\n".join(lines[:56]) + "\n", encoding="utf-8")
    (folder / "dev.csv").write_text("text,label\n" + "\n".join(lines[56:]) + "\n", encoding="utf-8")
    files = ["--train", str(folder / "train.csv"), "--dev", str(folder / "dev.csv")]
    settings = ["--task-set", "train.global_batch=8", "--task-set", "train.micro_batch=8"]
    return ["--preset", "BERT-E-S", "--task", str(folder / "praise.toml"), *files, *settings]


@pytest.mark.long
def test_the_estimate_contains_the_fine_tunings(
    task_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def estimate(flags: list[str]) -> dict[str, float]:
        assert run([*SMALL, *flags, "--out", str(tmp_path / "s"), "--dry-run", "--json"]) == 0
        document: dict[str, float] = json.loads(capsys.readouterr().out)
        return document

    plain, tuned = estimate(["--preset", "BERT-E-S"]), estimate(task_flags)
    assert (plain["finetunings"], tuned["finetunings"]) == (0, 4)
    assert tuned["hours"] > plain["hours"]
    assert tuned["model_flops"] > plain["model_flops"]
    assert not (tmp_path / "s").exists()


@pytest.mark.long
def test_a_task_is_scored_beside_the_loss(task_flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    flags = [*SMALL, *task_flags, "--task-score", "f1_positive", "--out", str(folder)]
    assert run(["--quiet", *flags]) == 0
    scored = rows(folder)
    for row in scored:
        lines = (folder / "runs" / f"{row['run']}-task" / "predictions-dev.jsonl").read_text("utf-8")
        pairs = [json.loads(line) for line in lines.splitlines()]
        labels, guesses = ([pair[name] for pair in pairs] for name in ("label", "prediction"))
        scores = row["task_scores"]
        assert isinstance(scores, dict)
        assert scores["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
        assert scores["f1_positive"] == pytest.approx(f1_score(labels, guesses, pos_label="good"))
        assert row["loss"] and not row["task_diverged"]
    outcome = read_outcome(Study.open(folder))
    loss, task = outcome.analyses
    assert loss.score == "masked loss, nats" and task.score.endswith("f1_positive")
    assert loss.verdict and task.verdict
    assert all(row.task_seconds and row.peak_memory_bytes for row in outcome.rows)
    shutil.rmtree(folder / "runs")
    loss_archived, task_archived = read_outcome(Study.open(folder)).analyses
    assert loss_archived.verdict == loss.verdict and loss_archived.incomplete == ()
    assert task_archived.verdict and task_archived.incomplete == (NO_PREDICTIONS,)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task-score", "f1"], "did you mean"),
        (["--task-score", "accuracy"], "belong to a --task"),
    ],
)
def test_a_wrong_task_score_is_refused(
    flags: list[str],
    message: str,
    task_flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = [] if "belong" in message else task_flags
    assert run([*SMALL, *task, *flags, "--out", str(tmp_path / "study")]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.long
def test_a_diverging_run_is_a_result_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, whole = tmp_path / "study", Study.cells

    def planted(study: Study, learning_rates: dict[int, float]) -> tuple[Cell, ...]:
        """The grid, in which one run has a rate at which no training is stable."""
        cells = list(whole(study, learning_rates))
        (place,) = [n for n, cell in enumerate(cells) if (cell.depth, cell.seed) == (2, 2)]
        train = cells[place].config.train.model_copy(update={"lr": 1e12})
        config = cells[place].config.model_copy(update={"train": train})
        cells[place] = replace(cells[place], config=config, learning_rate=1e12)
        return tuple(cells)

    monkeypatch.setattr(Study, "cells", planted)
    flags = [*SMALL, "--depths", "2,3,4", "--steps", "24", "--set", "train.warmup_steps=1"]
    assert run(["--quiet", *flags, "--out", str(folder)]) == 0
    assert "2 layers: 1 of 2 seeds diverged" in capsys.readouterr().out.replace("\n", " ")
    diverged = [row["run"] for row in rows(folder) if row["diverged"]]
    assert diverged == ["depth-002-seed-2"]
    outcome = read_outcome(Study.open(folder))
    (analysis,) = outcome.analyses
    assert analysis.comparison is not None and analysis.comparison.depths == (3, 4)
    assert "1 of 2 seeds diverged" in (folder / "report.html").read_text(encoding="utf-8")


def test_horizons_of_a_tuned_study_branch_from_one_trunk(finished: Path) -> None:
    settings = Study.open(finished).settings
    reference = dict(settings.reference)
    reference["train"] = {**reference["train"], "schedule": "wsd", "decay_share": 0.25}
    changed = settings.model_dump() | {"reference": reference, "horizons": (100.0, 400.0)}
    study = Study(finished, StudySettings.model_validate(changed))
    trunk, branch = study.cells({})[:2]
    assert (trunk.config.train.steps, trunk.trunk) == (400, None)
    assert trunk.config.train.keep_steps == (75,)
    assert (branch.config.train.steps, branch.trunk, branch.trunk_step) == (100, trunk.name, 75)


@pytest.mark.long
def test_horizons_by_branches_cost_little_and_equal_runs_of_their_own(tmp_path: Path) -> None:
    flags = [*SMALL, "--depths", "2", "--set", "train.schedule=wsd", "--set", "train.warmup_steps=4"]
    together = tmp_path / "together"
    assert run(["--quiet", *flags, "--steps", "20,40,80", "--out", str(together)]) == 0
    losses = {(row["steps"], row["seed"]): row["loss"] for row in rows(together)}
    trained = [
        sum(len(launch.steps) for launch in Run.open(folder).manifest().launches)
        for folder in (together / "runs").iterdir()
    ]
    assert sum(trained) <= 1.3 * 2 * 80  # two seeds
    for steps in (20, 40, 80):
        alone = tmp_path / str(steps)
        assert run(["--quiet", *flags, "--steps", str(steps), "--out", str(alone)]) == 0
        assert [losses[steps, row["seed"]] for row in rows(alone)] == [row["loss"] for row in rows(alone)]


def test_a_study_is_not_overwritten(finished: Path) -> None:
    with pytest.raises(UsageError, match="already there"):
        Study.create(finished, Study.open(finished).settings)
