"""A task of one's own from end to end: ten lines of TOML, real Chinese pairs, finetune, evaluate."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score

from fpm_cli.cli.app import run as fpm
from tests.small_runs import tiny
from tests.tasks.small_tasks import TEN_LINES


def head(source: Path, rows: int, out: Path) -> list[str]:
    """Copy the first rows; returns their labels."""
    with source.open(encoding="utf-8") as lines:
        taken = list(islice(lines, rows))
    out.write_text("".join(taken), encoding="utf-8")
    return [line.rstrip("\n").split("\t")[2] for line in taken]


@pytest.mark.parametrize("name", ["AFQMC", "LCQMC"])
def test_pairs_in_a_table_become_a_task(
    name: str,
    shared_data: Path,
    sample_corpora: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("task.toml").write_text(TEN_LINES.replace("afqmc", name.lower()))
    data = shared_data / "zh_pairs_bertorch" / name
    head(data / ("train.txt" if name == "AFQMC" else "dev.txt"), 120, Path("train.txt"))
    labels = head(data / ("dev.txt" if name == "AFQMC" else "test.txt"), 60, Path("dev.txt"))

    pretrain = [*tiny("BERT-C", "train.steps=1", "model.num_layers=2"), "--out", "pretrained"]
    assert fpm(["-q", *pretrain, "--corpus", str(sample_corpora("BERT-C"))]) == 0
    recipe = ("finetune.epochs=1", "train.global_batch=16", "train.micro_batch=16", "train.lr=1e-3")
    files = ("--train", "train.txt", "--dev", "dev.txt", "--out", f"runs/{name}")
    chosen = [flag for value in recipe for flag in ("--set", value)]
    assert fpm(["-q", "finetune", "task.toml", "--from", "pretrained", *files, *chosen]) == 0

    capsys.readouterr()
    assert fpm(["-q", "evaluate", "task.toml", "--baseline", "--json"]) == 0  # the newest run of this task
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == f"fpm.evaluate-{name.lower()}/1" and found["num_examples"] == 60
    rows = [json.loads(line) for line in Path(found["predictions"]).read_text().splitlines()]
    assert [row["label"] for row in rows] == labels
    predicted = [row["prediction"] for row in rows]
    assert all(row["probabilities"]["01".index(row["prediction"])] >= 0.5 for row in rows)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    (baseline,) = found["compared"]
    difference = baseline["differences"]["accuracy"]["difference"]
    assert difference == pytest.approx(found["accuracy"] - baseline["accuracy"])
