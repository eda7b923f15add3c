"""Submission files as GLUE and CLUE take them: one line for every row of the test file."""

import csv
import json
from pathlib import Path

import pytest

from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.tasks.definition import load_task
from fpm_cli.tasks.examples import read_examples
from fpm_cli.tasks.submission import write_submission


def test_a_glue_file_has_every_index_once_with_rejected_rows_filled(tmp_path: Path) -> None:
    test = tmp_path / "test.tsv"
    test.write_text("index\tquestion1\tquestion2\n0\ta\tb\n1\t\tb\n2\tc\td\n3\te\tf\n")
    qqp = load_task("qqp")
    read = read_examples(qqp, test, labels="optional")
    written = write_submission(qqp, read, ["1", "0", "1"], tmp_path / "made" / "here")
    assert written.path == tmp_path / "made" / "here" / "QQP.tsv"
    assert (written.rows, written.filled) == (4, 1)
    with written.path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["index"], row["prediction"]) for row in rows] == [
        ("0", "1"),
        ("1", "1"),
        ("2", "0"),
        ("3", "1"),
    ]


def test_a_clue_file_is_one_object_a_line(tmp_path: Path, shared_data: Path) -> None:
    tnews = load_task("tnews")
    read = read_examples(tnews, shared_data / "tnews" / "test.json", labels="optional")
    predictions = [tnews.labels[i % 15] for i in range(10_000)]
    written = write_submission(tnews, read, predictions, tmp_path)
    assert written.path.name == "tnews_predict.json"
    text = written.path.read_text()
    assert text.startswith('{"id": 0, "label": "100"}\n{"id": 1, "label": "101"}\n')
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == list(range(10_000))
    assert {row["label"] for row in rows} == set(tnews.labels)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("index\tquestion1\tquestion2\n0\ta\tb\n0\tc\td\n", "1 rows have the id of another row"),
        ("index\tquestion1\tquestion2\n0\ta\tb\nbroken\n", "line 3: 1 fields .* it has no id"),
    ],
)
def test_a_file_that_would_be_refused_is_not_written(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "test.tsv").write_text(content)
    qqp = load_task("qqp")
    read = read_examples(qqp, tmp_path / "test.tsv", labels="optional")
    with pytest.raises(DamagedError, match=said):
        write_submission(qqp, read, ["0"] * len(read.examples), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_without_an_official_form_says_so(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text("index\tquestion1\tquestion2\n0\ta\tb\n")
    task = load_task("qqp").model_copy(update={"submission": None})
    read = read_examples(task, tmp_path / "test.tsv", labels="optional")
    with pytest.raises(UsageError, match="no submission form"):
        write_submission(task, read, ["0"], tmp_path)
