"""`fpm evaluate` on a task: one JSON document, tables, exit statuses, and a task of one's own."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.cli.app import run
from fpm_cli.tasks.definition import load_task
from fpm_cli.tokenization.registry import train_tokenizer
from tests.tasks.small_tasks import TEN_LINES
from tests.tasks.tuned_runs import Oracle, tuned_run

HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two QQP runs, whose networks are right in 7 of 8 and 1 of 2 cases."""
    monkeypatch.chdir(tmp_path)

    def predict(run_: Any, task: Any, examples: Any, report: Any) -> Any:
        return Oracle(wrong=2 if "worse" in str(run_.path) else 8)(run_, task, examples)

    monkeypatch.setattr("fpm_cli.tasks.predict.predict", predict)
    rows = [f"{i}\t0\t0\twhy {i}?\thow {i}?\t{i % 2}\n" for i in range(40)]
    Path("dev.tsv").write_text(HEADER + "".join(rows) + "broken\n")
    Path("train.tsv").write_text(HEADER + "".join(rows[:10]))
    for name in ("qqp-worse", "qqp"):
        tuned_run(Path("runs") / name, load_task("qqp"), [Path("train.tsv")], Path("dev.tsv"))
    return tmp_path


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["evaluate", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_json_has_the_contract_s_names_and_nothing_else_is_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document(capsys, "qqp", "runs/qqp", "--compare", "runs/qqp-worse")
    assert found["schema"] == "fpm.evaluate-qqp/1"
    assert (found["task"], found["split"], found["num_examples"]) == ("qqp", "dev", 40)
    assert found["accuracy"] == pytest.approx(35 / 40)
    assert found["rows"] == 41 and found["rejected"][0]["line"] == 42
    assert found["unseen"]["num_seen_in_training"] == 10 and found["unseen"]["num_examples"] == 30
    (other,) = found["compared"]
    assert other["accuracy"] == 0.5 and other["differences"]["accuracy"]["difference"] == 0.375


def test_several_runs_are_compared_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    task = load_task("qqp")
    tuned_run(Path("runs/qqp-worse-2"), task, [Path("train.tsv")], Path("dev.tsv"))
    options = ("--compare", "runs/qqp-worse", "--compare", "runs/qqp-worse-2")
    compared = document(capsys, "qqp", "runs/qqp", *options)["compared"]
    assert [entry["system"] for entry in compared] == ["runs/qqp-worse", "runs/qqp-worse-2"]
    assert all(entry["differences"]["accuracy"]["difference"] == 0.375 for entry in compared)


def test_the_newest_finished_run_of_the_task_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for age, name in enumerate(("qqp", "qqp-worse")):
        os.utime(f"runs/{name}/manifest.json", ns=(0, age))
    assert document(capsys, "qqp")["run"] == "runs/qqp-worse"
    assert run(["evaluate", "tnews"]) == 3
    assert "no finished run of tnews under runs/" in capsys.readouterr().err
    assert run(["evaluate", "lm"]) == 3  # a fine-tuned run is no language model
    assert "no finished run under runs/" in capsys.readouterr().err


def test_a_reader_gets_scores_intervals_the_paper_and_the_confusion_matrix(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["evaluate", "qqp", "runs/qqp", "--compare", "runs/qqp-worse"]) == 0
    streams = capsys.readouterr()
    for said in (
        "87.50",
        " to ",
        "macro F1",
        "BERT-E-L (Table 3)",
        "confusion matrix",
        "1 duplicate",
        "+37.50",
        "dev.tsv, 1 of 41 rows rejected",
        "10 of the examples are also in the run's training files",
    ):
        assert said in streams.out, said
    assert "rejected dev.tsv: line 42: 1 fields instead of 6" in streams.err
    assert "Table 1)" not in streams.out


def test_a_file_with_a_bad_row_is_refused_where_none_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "qqp", "runs/qqp", "--max-bad", "0"]) == 6
    streams = capsys.readouterr()
    assert not streams.out and "line 42: 1 fields instead of 6" in streams.err


def test_a_submission_is_written_for_a_test_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("test.tsv").write_text("index\tquestion1\tquestion2\n0\ta\tb\n1\tc\td\n")
    found = document(capsys, "qqp", "runs/qqp", "--input", "test.tsv", "--submission", "out")
    assert found["submission"] == {"path": "out/QQP.tsv", "rows": 2, "filled": 0}
    assert Path("out/QQP.tsv").read_text() == "index\tprediction\n0\t1\n1\t0\n"
    assert found["accuracy"] is None and found["split"] == "test"


def test_a_task_of_ones_own_stands_in_the_command_s_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("afqmc.toml").write_text(TEN_LINES)
    Path("dev.txt").write_text("花呗怎么还\t怎么还花呗\t1\n借呗是什么\t花呗是什么\t0\n", encoding="utf-8")
    tuned_run(Path("runs/afqmc"), load_task("afqmc.toml"), [], Path("dev.txt"))
    found = document(capsys, "afqmc.toml", "runs/afqmc")
    assert found["schema"] == "fpm.evaluate-afqmc/1" and found["num_examples"] == 2
    assert found["paper"] == [] and found["notes"] == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["qpq"], 2, "did you mean 'qqp'"),
        (["mine.toml"], 3, "mine.toml: no such task file"),
        (["qqp", "runs/none"], 3, "not a run folder"),
        (["qqp", "runs/qqp", "--input", "none.tsv"], 3, "none.tsv: no such file"),
        (["tnews", "runs/qqp"], 2, "fine-tuned for task qqp, not for this tnews"),
        (["qqp", "runs/qqp", "--max-bad", "-1"], 2, "--max-bad"),
        (["qqp", "runs/qqp", "--split", "../x"], 2, "--split '../x'"),
    ],
)
def test_a_mistake_has_its_exit_status_and_its_words(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    assert run(["evaluate", *arguments]) == status
    streams = capsys.readouterr()
    assert said in streams.err and not streams.out


def test_the_share_of_unknown_tokens_stands_beside_the_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "qqp", "runs/qqp")["unknown_tokens"] is None  # this run has no tokenizer
    tokenizer = train_tokenizer("bert-en", ["why how ?"], 100, allow_smaller=True)
    tokenizer.save(Path("runs/qqp/tokenizer"))
    found = document(capsys, "qqp", "runs/qqp")
    assert found["unknown_tokens"] == pytest.approx(1 / 5)  # w ##h ##y [UNK] ?
    assert run(["evaluate", "qqp", "runs/qqp"]) == 0
    assert "20.00% of the tokens are unknown" in capsys.readouterr().out
