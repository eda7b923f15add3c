"""A fine-tuned run scored on its task: what is reported, beside what, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fpm_cli.accounting.paper_tables import TABLE1, TABLE3
from fpm_cli.errors import DivergedError, MissingError, UsageError
from fpm_cli.tasks.definition import TaskDefinition, load_task
from fpm_cli.tasks.evaluate import EvaluationRequest, evaluate
from fpm_cli.tasks.examples import read_examples
from fpm_cli.tasks.task_run import TaskRun
from tests.tasks.tuned_runs import Oracle, tuned_run

QQP = load_task("qqp")
WORDS = ("sun", "moon", "tree", "river", "stone", "cloud", "bread", "horse")


def pairs(path: Path, first: int, count: int, *, labelled: bool = True) -> Path:
    """Pairs of which those with the same words are duplicates."""
    rows = ["\t".join(["id", "qid1", "qid2", "question1", "question2", *(["is_duplicate"] * labelled)])]
    for i in range(first, first + count):
        a, b = WORDS[i % 8], WORDS[(i // 8 + i % 2 * 3) % 8]
        duplicate = i % 3 == 0
        texts = (f"why {a} {b} {i}?", f"why {a} {b} {i}?" if duplicate else f"how {b} or {WORDS[i % 5]}?")
        rows.append("\t".join([str(i), "0", "0", *texts, *([str(int(duplicate))] * labelled)]))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def task_run(tmp_path: Path) -> TaskRun:
    train, dev = pairs(tmp_path / "train.tsv", 0, 120), pairs(tmp_path / "dev.tsv", 100, 60)
    return tuned_run(tmp_path / "run", QQP, [train], dev)


def test_the_document_has_the_names_that_others_read(task_run: TaskRun) -> None:
    report = evaluate(QQP, task_run, EvaluationRequest(), Oracle(wrong=6))
    document = json.loads(json.dumps(report.document(), allow_nan=False))
    assert (document["task"], document["split"], document["num_examples"]) == ("qqp", "dev", 60)
    assert document["accuracy"] == pytest.approx(50 / 60)
    names = {"accuracy", "f1_positive", "precision_macro", "recall_macro", "f1_macro", "matthews"}
    assert set(document["ci95"]) == names
    for name in names:
        low, high = document["ci95"][name]
        assert low <= document[name] <= high
    assert sum(map(sum, document["confusion_matrix"])) == 60


def test_texts_that_stand_in_the_training_files_are_told_apart(task_run: TaskRun) -> None:
    report = evaluate(QQP, task_run, EvaluationRequest(), Oracle(wrong=6))
    unseen = report.unseen
    assert unseen is not None and unseen.num_seen == 20  # rows 100 to 119
    assert unseen.scores is not None and unseen.scores.num_examples == 40
    right = sum(place % 6 != 0 for place in range(20, 60))
    assert unseen.scores.metrics["accuracy"] == pytest.approx(right / 40)
    everything = evaluate(QQP, task_run, EvaluationRequest(file=task_run.train_files[0]), Oracle(wrong=6))
    assert everything.unseen is not None and everything.unseen.scores is None


def test_a_training_file_that_is_gone_is_said(task_run: TaskRun) -> None:
    task_run.train_files[0].unlink()
    report = evaluate(QQP, task_run, EvaluationRequest(), Oracle(wrong=6))
    assert report.unseen is None
    assert any("a training file could not be read" in note for note in report.notes)
    with pytest.raises(MissingError, match="no training file is left"):
        evaluate(QQP, task_run, EvaluationRequest(baseline=True), Oracle(wrong=6))


def test_predictions_are_kept_in_the_run(task_run: TaskRun) -> None:
    report = evaluate(QQP, task_run, EvaluationRequest(), Oracle(wrong=6))
    assert report.predictions == task_run.run.path / "predictions-dev.jsonl"
    rows = [json.loads(line) for line in report.predictions.read_text().splitlines()]
    assert len(rows) == 60
    assert rows[1] == {"id": "101", "label": "0", "prediction": "0", "probabilities": [0.875, 0.125]}
    assert report.scores is not None
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert right / 60 == pytest.approx(report.scores.metrics["accuracy"])


def test_a_run_that_cannot_be_written_to_is_scored_all_the_same(
    task_run: TaskRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fpm_cli.tasks.predictions.replace_text", refuse)
    report = evaluate(QQP, task_run, EvaluationRequest(), Oracle(wrong=6))
    assert report.scores is not None and report.scores.metrics["accuracy"] == pytest.approx(50 / 60)
    assert report.predictions is None and report.document()["predictions"] is None
    assert any("the predictions were not kept: Permission denied" in note for note in report.notes)


def test_two_runs_are_compared_in_pairs_on_the_same_examples(task_run: TaskRun, tmp_path: Path) -> None:
    other = tuned_run(tmp_path / "other", QQP, task_run.train_files, None)

    def predict(run, task, examples):  # type: ignore[no-untyped-def]
        return Oracle(wrong=6 if run.path == task_run.run.path else 3)(run, task, examples)

    (compared,) = evaluate(QQP, task_run, EvaluationRequest(others=[other]), predict).compared
    assert compared.system == str(other.run.path)
    difference = compared.differences["accuracy"]
    assert difference.difference == pytest.approx(10 / 60)
    assert difference.ci95[0] > 0 and difference.p_value < 0.01


def test_the_baseline_learns_from_the_same_training_file(task_run: TaskRun) -> None:
    report = evaluate(QQP, task_run, EvaluationRequest(baseline=True), Oracle(wrong=6))
    (baseline,) = report.compared
    assert "logistic regression" in baseline.system and baseline.scores.metrics["accuracy"] > 0.9
    again = evaluate(QQP, task_run, EvaluationRequest(baseline=True), Oracle(wrong=6))
    assert again.compared == report.compared


def test_like_stands_beside_like(task_run: TaskRun) -> None:
    dev = evaluate(QQP, task_run, EvaluationRequest(), Oracle(wrong=6))
    assert [row.system for row in dev.paper] == list(TABLE3)
    assert {row.source for row in dev.paper} == {"Table 3"}
    assert all(row.f1_positive is None and row.f1_macro is not None for row in dev.paper)
    assert any(
        "Table 3's F1 is the macro average" in note and "90.85 / 90.87 / 90.8" in note for note in dev.notes
    )
    assert any("40,430" in note for note in dev.notes)

    test = evaluate(QQP, task_run, EvaluationRequest(file=task_run.dev_file, split="test"), Oracle(wrong=6))
    assert [row.system for row in test.paper] == list(TABLE1)
    assert all(row.f1_macro is None for row in test.paper)

    other = evaluate(QQP, task_run, EvaluationRequest(file=task_run.dev_file, split="mine"), Oracle(wrong=6))
    assert not other.paper and any("'mine'" in note for note in other.notes)


def test_a_file_without_labels_gets_predictions_and_a_submission(task_run: TaskRun, tmp_path: Path) -> None:
    test = pairs(tmp_path / "test.tsv", 0, 9, labelled=False)
    request = EvaluationRequest(file=test, submission=tmp_path / "out")
    report = evaluate(QQP, task_run, request, Oracle(wrong=2))
    document = report.document()
    assert document["accuracy"] is None and document["num_examples"] == 9 and document["split"] == "test"
    assert report.submission is not None and report.submission.rows == 9
    assert (tmp_path / "out" / "QQP.tsv").read_text().splitlines()[:3] == [
        "index\tprediction",
        "0\t1",
        "1\t0",
    ]
    with pytest.raises(UsageError, match="no labels, so nothing can be compared"):
        evaluate(QQP, task_run, replace(request, baseline=True), Oracle(wrong=2))


def test_a_run_of_another_task_is_refused(task_run: TaskRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was fine-tuned for task qqp, not for this tnews"):
        evaluate(load_task("tnews"), task_run, EvaluationRequest(), Oracle(wrong=2))
    swapped = QQP.model_copy(update={"labels": ("1", "0")})
    with pytest.raises(UsageError, match="other labels or texts of qqp"):
        evaluate(swapped, task_run, EvaluationRequest(), Oracle(wrong=2))


@pytest.mark.parametrize("split", ["../up", "a/b", "", ".hidden"])
def test_a_split_cannot_name_a_file_elsewhere(task_run: TaskRun, split: str) -> None:
    with pytest.raises(UsageError, match="letters, digits, dots and hyphens"):
        evaluate(QQP, task_run, EvaluationRequest(split=split), Oracle(wrong=2))


def test_a_run_without_a_dev_set_asks_for_a_file(task_run: TaskRun, tmp_path: Path) -> None:
    other = tuned_run(tmp_path / "other", QQP, task_run.train_files, None)
    with pytest.raises(MissingError, match="was given no dev set; score a file with --input"):
        evaluate(QQP, other, EvaluationRequest(), Oracle(wrong=2))


def test_predictions_that_are_not_numbers_are_a_diverged_run(task_run: TaskRun) -> None:
    def nan(run, task, examples):  # type: ignore[no-untyped-def]
        return np.full((len(examples), 2), np.nan, dtype=np.float32)

    with pytest.raises(DivergedError, match="its predictions are not numbers"):
        evaluate(QQP, task_run, EvaluationRequest(), nan)


def test_the_run_decides_whether_keywords_are_appended(tmp_path: Path) -> None:
    dev = tmp_path / "dev.json"
    dev.write_text('{"label": "100", "sentence": "甲", "keywords": "乙"}\n')
    tnews = load_task("tnews")
    appending = tnews.model_copy(update={"append": ("keywords",)})
    task_run = tuned_run(tmp_path / "run", appending, [], dev)
    texts: list[str] = []

    def predict(run, task, examples):  # type: ignore[no-untyped-def]
        texts.extend(example.text_a for example in examples)
        return Oracle(wrong=2)(run, task, examples)

    report = evaluate(tnews, task_run, EvaluationRequest(), predict)
    assert texts == ["甲 乙"] and report.document()["appended_columns"] == ["keywords"]
    assert any("BERT-C 65.86 %" in note and "without naming the split" in note for note in report.notes)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "train", "dev", "least"),
    [
        ("qqp", ("quora-train-small.csv", "quora-train-pre-left.csv"), "qqp_cs224n/quora-dev.csv", 0.77),
        ("tnews", ("train.tsv",), "tnews/dev.json", 0.555),
    ],
)
def test_linear_baselines_on_real_rows(
    shared_data: Path, name: str, train: tuple[str, ...], dev: str, least: float
) -> None:
    from fpm_cli.tasks.baseline import predict_with_baseline
    from fpm_cli.tasks.scores import score

    task: TaskDefinition = load_task(name)
    folder = (shared_data / dev).parent
    training = [example for file in train for example in read_examples(task, folder / file).examples]
    examples = read_examples(task, shared_data / dev).examples
    predicted = predict_with_baseline(task, training, examples)
    labels = np.array([example.label for example in examples])
    assert score(labels, predicted, len(task.labels), task.positive_class).metrics["accuracy"] > least
