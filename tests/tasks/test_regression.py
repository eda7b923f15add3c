"""Regression, tasks of three texts, and a suite: fine-tuned and scored from end to end on tiny networks."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import load_task
from fpm_cli.tasks.encoded import encode_examples
from fpm_cli.tasks.examples import read_examples
from tests.tasks.tuned_runs import QUICK

STARS = """
name = "stars"
language = "en"
value_range = [0.0, 4.0]
metrics = ["pearson", "spearman"]
[[layouts]]
format = "csv"
text_a = "text"
label = "stars"
"""
THREE = """
name = "three"
language = "en"
labels = ["no", "yes"]
[[layouts]]
format = "csv"
text_a = "first"
text_b = "second"
more_texts = ["third"]
label = "label"
"""


def settings(*assignments: str) -> list[str]:
    return [flag for value in (*QUICK, *assignments) for flag in ("--set", value)]


def test_a_network_learns_a_value(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stars.toml").write_text(STARS)
    random = np.random.default_rng(0)
    rows = []
    for number in range(96):
        stars = number % 5
        words = ["good"] * stars + ["evil"] * (4 - stars)
        random.shuffle(words)
        rows.append(
            f"{' '.join(words)},{stars + 0.25 * (number % 3 - 1):.2f}"
            if 0 < stars < 4
            else f"{' '.join(words)},{stars}"
        )
    for name, part in (("train", rows[:72]), ("dev", rows[72:])):
        (tmp_path / f"{name}.csv").write_text("text,stars\n" + "\n".join(part) + "\n")
    run = tmp_path / "run"
    arguments = [
        "finetune",
        str(tmp_path / "stars.toml"),
        "--from",
        str(place / "BERT-E-S"),
        "--out",
        str(run),
    ]
    files = ("--train", str(tmp_path / "train.csv"), "--validation", str(tmp_path / "dev.csv"))
    flags = settings("finetune.epochs=8")
    assert fpm(["-q", *arguments, *files, *flags]) == 0
    validation = [
        row
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if (row := json.loads(line))["kind"] == "validation"
    ]
    assert max(row["pearson"] for row in validation) > 0.8
    capsys.readouterr()
    dev = str(tmp_path / "dev.csv")
    task = str(tmp_path / "stars.toml")
    assert fpm(["evaluate", task, str(run), "--input", dev, "--baseline", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows_written = [json.loads(line) for line in Path(document["predictions"]).read_text().splitlines()]
    labels, predicted = ([row[name] for row in rows_written] for name in ("label", "prediction"))
    assert all(0 <= value <= 4 for value in predicted)
    assert document["pearson"] == pytest.approx(pearsonr(labels, predicted).statistic, abs=1e-4)
    assert document["spearman"] == pytest.approx(spearmanr(labels, predicted).statistic, abs=1e-4)
    assert document["pearson"] == pytest.approx(max(row["pearson"] for row in validation), abs=1e-3)
    assert set(document["ci95"]) == {"pearson", "spearman"} and document["compared"][0]["pearson"] > 0.5
    assert fpm(["evaluate", task, str(run), "--input", dev]) == 0
    assert "Pearson's" in capsys.readouterr().out

    out = tmp_path / "out"
    assert fpm(["export", str(run), "--out", str(out), "--json"]) == 0
    assert json.loads((out / "config.json").read_text())["problem_type"] == "regression"


def test_three_texts_are_one_sequence_with_a_separator_after_each(place: Path, tmp_path: Path) -> None:
    (tmp_path / "three.toml").write_text(THREE)
    (tmp_path / "rows.csv").write_text(
        "first,second,third,label\n" + "one,two words,three more words,yes\n" * 2
    )
    task = load_task(tmp_path / "three.toml")
    assert task.num_texts == 3 and not task.is_pair
    examples = read_examples(task, tmp_path / "rows.csv").examples
    tokenizer = load_trained_model(Run.open(place / "BERT-E-S")).tokenizer
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    encoded = encode_examples(examples, tokenizer, "bert", 64)
    parts = [[*tokenizer.encode(text), sep] for text in ("one", "two words", "three more words")]
    assert encoded.tokens[: encoded.lengths[0]].tolist() == [cls, *parts[0], *parts[1], *parts[2]]
    assert encoded.first_lengths[0] == 1 + len(parts[0])
    short = encode_examples(examples, tokenizer, "bert", 8)
    assert short.lengths[0] == 8


def test_a_suite_is_fine_tuned_and_scored_in_one_folder(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    suites = tmp_path / "suites"
    suites.mkdir()
    (suites / "mine.toml").write_text(
        'name = "mine"\n'
        '[[tasks]]\ntask = "cola"\nfolder = "CoLA"\ntrain = "train.tsv"\ndev = "dev.tsv"\n'
        '[[tasks]]\ntask = "rte"\nfolder = "RTE"\ntrain = "train.tsv"\ndev = "dev.tsv"\n'
    )
    monkeypatch.setattr("fpm_cli.tasks.suite.SUITES", suites)
    for folder in ("CoLA", "RTE"):
        Path("data", folder).mkdir(parents=True)
    for name, size in (("train", 40), ("dev", 16)):
        rows = [f"x\t{i % 2}\t\tthe {('evil', 'good')[i % 2]} man {i}" for i in range(size)]
        Path("data/CoLA", f"{name}.tsv").write_text("\n".join([*rows, ""]))
        pairs = [f"{i}\tthe man {i}\tthe house\t{('', 'not_')[i % 2]}entailment" for i in range(size)]
        lines = ["index\tsentence1\tsentence2\tlabel", *pairs, ""]
        Path("data/RTE", f"{name}.tsv").write_text("\n".join(lines))
    arguments = [
        "-q",
        "finetune",
        "mine",
        "--from",
        str(place / "BERT-E-S"),
        "--data",
        "data",
        "--out",
        "runs/mine",
    ]
    assert fpm([*arguments, "--validation", "0.2", *settings("finetune.epochs=0.5")]) == 0
    assert sorted(path.name for path in Path("runs/mine").iterdir()) == ["cola", "rte"]
    assert fpm([*arguments, "--validation", "0.2"]) == 0  # finished: nothing to train
    assert fpm(["-q", "finetune", "mine", "--from", str(place / "BERT-E-S")]) == 2
    assert "--data is missing" in capsys.readouterr().err
