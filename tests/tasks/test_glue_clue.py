"""The tasks of GLUE and CLUE read their official files and write their official submissions."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fpm_cli.errors import MissingError, UsageError
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition, load_task, task_names
from fpm_cli.tasks.evaluate_suite import evaluate_suite
from fpm_cli.tasks.examples import Example, read_examples
from fpm_cli.tasks.submission import write_submission
from fpm_cli.tasks.suite import load_suite, suite_names
from fpm_cli.tasks.task_run import TaskRun
from tests.tasks.tuned_runs import Oracle, tuned_run

MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
    "sentence2_parse\tsentence1\tsentence2"
)
# By task: the lines of a labelled file, and of a test file, in the form in which the benchmark gives them.
GLUE: dict[str, tuple[list[str], list[str]]] = {
    "cola": (
        ["gj04\t1\t\tOur friends won't buy this.", "gj04\t0\t*\tThe car honked down the road"],
        ["index\tsentence", "0\tBill whistled past the house.", "1\tThe car honked."],
    ),
    "sst2": (
        ["sentence\tlabel", "it 's a \"charming journey . \t1", "unflinchingly bleak\t0"],
        ["index\tsentence", "0\tuneasy mishmash", "1\tby far the best"],
    ),
    "mrpc": (
        [
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            '1\t702876\t702977\tAmrozi accused "the witness .\tReferring to him\r',
            "0\t2108705\t2108831\tYucaipa owned it .\tYucaipa bought it\r",
        ],
        ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t1\t2\tA b\tC d", "1\t1\t2\tE f\tG h"],
    ),
    "stsb": (
        [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            "0\tmain-captions\tMSRvid\t2012test\t0000\tnone\tnone\tA man rides.\tA man is riding.\t5.000",
            "1\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA dog.\tA plane.\t0.250",
        ],
        [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
            "0\tmain-captions\tMSRvid\t2012test\t0\tnone\tnone\tA girl.\tA woman.",
        ],
    ),
    "mnli": (
        [
            f"{MNLI_HEADER}\tlabel1\tgold_label",
            "0\t3\t3e\tfiction\t( a )\t( b )\t(S a)\t(S b)\tThe new rights\tEveryone\tneutral\tneutral",
            "1\t4\t4e\tfiction\t( a )\t( b )\t(S a)\t(S b)\tThis site\tThis\tentailment\tentailment",
            "2\t5\t5e\tfiction\t( a )\t( b )\t(S a)\t(S b)\tUnsure\tNobody\tneutral\t-",
        ],
        [MNLI_HEADER, "0\t3\t3e\tfiction\t( a )\t( b )\t(S a)\t(S b)\tHierbas\tis a name"],
    ),
    "ax": (
        ["index\tsentence1\tsentence2\tLabel", "0\tThe cat sat.\tThe cat did not sit.\tcontradiction"],
        ["index\tsentence1\tsentence2", "0\tThe cat sat.\tThe cat did not sit."],
    ),
    "qnli": (
        [
            "index\tquestion\tsentence\tlabel",
            "0\tWhat came into force?\tAs of that day it did.\tentailment",
            '1\tWho "ruled?\tThe duke\tnot_entailment',
        ],
        ["index\tquestion\tsentence", "0\tWhen?\tThen."],
    ),
    "rte": (
        ["index\tsentence1\tsentence2\tlabel", "0\tNo weapons.\tWeapons found.\tnot_entailment"],
        ["index\tsentence1\tsentence2", "0\tMangla was summoned.\tHe was."],
    ),
    "wnli": (
        ["index\tsentence1\tsentence2\tlabel", "0\tI stuck a pin through it.\tThe pin had a hole.\t1"],
        ["index\tsentence1\tsentence2", "0\tMaude and Dora.\tHorses ran."],
    ),
}
GLUE["mnli-mm"] = GLUE["mnli"]
CLUE: dict[str, tuple[list[dict[str, object]], dict[str, object]]] = {
    "iflytek": (
        [{"label": "110", "label_des": "社区超市", "sentence": "朴朴快送超市"}],
        {"id": 0, "sentence": "乐山掌上公交"},
    ),
    "afqmc": (
        [{"sentence1": "双十一花呗提额", "sentence2": "花呗提额在哪", "label": "0"}],
        {"id": 0, "sentence1": "借呗", "sentence2": "花呗"},
    ),
    "cmnli": (
        [
            {"sentence1": "新的权利", "sentence2": "每个人", "label": "neutral"},
            {"sentence1": "新的权利", "sentence2": "没有人", "label": "-"},
        ],
        {"id": 0, "sentence1": "甲", "sentence2": "乙"},
    ),
    "ocnli": (
        [
            {"level": "medium", "sentence1": "身上裹一件", "sentence2": "冷", "label": "entailment", "id": 0},
            {"level": "hard", "sentence1": "身上裹一件", "sentence2": "热", "label": "-", "id": 1},
        ],
        {"sentence1": "甲", "sentence2": "乙", "id": 0, "level": "easy"},
    ),
    "csl": (
        [{"id": 1, "abst": "为解决传统均匀的问题", "keyword": ["水声学", "DOA"], "label": "0"}],
        {"id": 2415, "abst": "摘要", "keyword": ["词", "语"]},
    ),
    "cluewsc": (
        [
            {
                "target": {
                    "span2_index": 6,
                    "span1_index": 0,
                    "span1_text": "裂开的伤口",
                    "span2_text": "它",
                },
                "idx": 0,
                "label": "true",
                "text": "裂开的伤口，它涂满尘土",
            }
        ],
        {
            "target": {"span2_index": 2, "span1_index": 0, "span1_text": "床", "span2_text": "它"},
            "id": 0,
            "text": "床，它好",
        },
    ),
    "tnews": (
        [
            {
                "label": "102",
                "label_desc": "news_entertainment",
                "sentence": "江疏影甜甜圈自拍",
                "keywords": "",
            }
        ],
        {"id": 0, "sentence": "在设计史上", "keywords": ""},
    ),
}


def tsv(path: Path, lines: list[str]) -> Path:
    path.write_bytes("\n".join([*lines, ""]).encode())
    return path


def jsonl(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_task_of_both_suites_comes_with_fpm() -> None:
    assert suite_names() == ("clue", "glue")
    tasks = {entry.task for name in suite_names() for entry in load_suite(name).tasks}
    assert tasks == set(task_names()) == {*GLUE, *CLUE, "qqp"}


@pytest.mark.parametrize("name", GLUE)
def test_glue_s_files_are_read_and_its_submission_is_written(name: str, tmp_path: Path) -> None:
    task, (labelled, unlabelled) = load_task(name), GLUE[name]
    read = read_examples(task, tsv(tmp_path / "dev.tsv", labelled))
    header = 0 if name == "cola" else 1
    assert read.rows == len(labelled) - header
    assert [row.reason for row in read.rejected] == ["no gold label"] * ("mnli" in name)
    test = read_examples(task, tsv(tmp_path / "test.tsv", unlabelled), labels="optional")
    assert not test.has_labels and len(test.examples) == len(unlabelled) - 1
    written = ["2.500" if task.is_regression else task.labels[-1]] * len(test.examples)
    submission = write_submission(task, test, written, tmp_path / "out")
    assert (
        submission.path.name
        == {
            "cola": "CoLA.tsv",
            "sst2": "SST-2.tsv",
            "mrpc": "MRPC.tsv",
            "stsb": "STS-B.tsv",
            "mnli": "MNLI-m.tsv",
            "mnli-mm": "MNLI-mm.tsv",
            "ax": "AX.tsv",
            "qnli": "QNLI.tsv",
            "rte": "RTE.tsv",
            "wnli": "WNLI.tsv",
        }[name]
    )
    lines = submission.path.read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{i}\t{each}" for i, each in enumerate(written))]


@pytest.mark.parametrize("name", CLUE)
def test_clue_s_files_are_read_and_its_submission_is_written(name: str, tmp_path: Path) -> None:
    task, (labelled, unlabelled) = load_task(name), CLUE[name]
    read = read_examples(task, jsonl(tmp_path / "dev.json", labelled))
    assert [row.reason for row in read.rejected] == ["no gold label"] * (name in ("cmnli", "ocnli"))
    test = read_examples(task, jsonl(tmp_path / "test.json", [unlabelled]), labels="optional")
    assert not test.has_labels
    submission = write_submission(task, test, [task.labels[0]], tmp_path / "out")
    expected = "ocnli_50k_predict.json" if name == "ocnli" else f"{name}_predict.json"
    assert submission.path.name == expected
    assert json.loads(submission.path.read_text()) == {"id": unlabelled["id"], "label": task.labels[0]}


def test_glue_s_labels_are_read_as_they_are_meant(tmp_path: Path) -> None:
    def labels(name: str) -> list[object]:
        return [e.label for e in read_examples(load_task(name), tsv(tmp_path / "x", GLUE[name][0])).examples]

    assert labels("cola") == [1, 0] and labels("sst2") == [1, 0] and labels("mrpc") == [1, 0]
    assert labels("stsb") == [5.0, 0.25] and labels("wnli") == [1]
    assert labels("mnli") == [1, 0] and labels("qnli") == [0, 1] and labels("rte") == [1]


def test_texts_of_lists_and_marked_spans(tmp_path: Path) -> None:
    (csl,) = read_examples(load_task("csl"), jsonl(tmp_path / "csl", CLUE["csl"][0])).examples
    assert csl.texts == ("水声学 DOA", "为解决传统均匀的问题")
    (wsc,) = read_examples(load_task("cluewsc"), jsonl(tmp_path / "wsc", CLUE["cluewsc"][0])).examples
    assert wsc.texts == ("_裂开的伤口_，[它]涂满尘土",) and wsc.label == 0
    moved = {**CLUE["cluewsc"][0][0], "text": "它涂满尘土"}
    good = CLUE["cluewsc"][0][0]
    read = read_examples(load_task("cluewsc"), jsonl(tmp_path / "moved", [good, moved]))
    assert "target.span1_text '裂开的伤口' is not at target.span1_index 0" in read.rejected[0].reason


def test_a_value_outside_the_range_is_rejected(tmp_path: Path) -> None:
    lines = [*GLUE["stsb"][0], "2\tx\tx\tx\t0\tnone\tnone\tA\tB\t5.1", "3\tx\tx\tx\t0\tnone\tnone\tA\tB\tnan"]
    read = read_examples(load_task("stsb"), tsv(tmp_path / "dev.tsv", lines))
    assert [row.reason for row in read.rejected] == [
        "'5.1' is not a number from 0 to 5",
        "'nan' is not a number from 0 to 5",
    ]


def test_real_mrpc_is_read_whole(shared_data: Path) -> None:
    folder = shared_data / "glue_small" / "glue_data" / "MRPC"
    for name in ("train", "dev"):
        lines = (folder / f"{name}.tsv").read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")[1:]
        read = read_examples(load_task("mrpc"), folder / f"{name}.tsv")
        # This copy of GLUE's train.tsv has 3,667 of its 3,668 pairs.
        assert len(read.examples) == len(lines) == {"train": 3667, "dev": 408}[name]
        rows = [line.split("\t") for line in lines]
        expected = [(label, first.strip(), second.strip()) for label, _, _, first, second in rows]
        assert [(str(e.label), e.text_a, e.text_b) for e in read.examples] == expected


class ValueOracle(Oracle):
    """Predicts classes as `Oracle` does, and values with a little noise."""

    def __call__(self, run: Run, task: TaskDefinition, examples: Sequence[Example]) -> NDArray[np.float32]:
        if not task.is_regression:
            return super().__call__(run, task, examples)
        noise = np.random.default_rng(0).normal(0, 0.3, len(examples))
        return np.array([[float(e.label or 0)] for e in examples], dtype=np.float32) + noise[:, None]


@pytest.fixture
def glue_runs(tmp_path: Path) -> dict[str, TaskRun]:
    """A run of each of four tasks, with dev files in GLUE's folders."""
    runs = {}
    rows = {
        "cola": ("CoLA", [f"x\t{i % 2}\t\tSentence {i}" for i in range(40)]),
        "rte": (
            "RTE",
            [GLUE["rte"][0][0], *(f"{i}\tA {i}\tB\t{('', 'not_')[i % 2]}entailment" for i in range(40))],
        ),
        "stsb": (
            "STS-B",
            [GLUE["stsb"][0][0], *(f"{i}\tx\tx\tx\t0\tn\tn\tA {i}\tB\t{i % 11 / 2}" for i in range(40))],
        ),
        "mnli": (
            "MNLI",
            [
                f"{MNLI_HEADER}\tlabel1\tgold_label",
                *(
                    f"{i}\t3\t3e\tf\ta\tb\tc\td\tA {i}\tB\tx\t{('entailment', 'neutral')[i % 2]}"
                    for i in range(40)
                ),
            ],
        ),
    }
    for name, (folder, lines) in rows.items():
        (tmp_path / folder).mkdir()
        dev = tsv(tmp_path / folder / ("dev_matched.tsv" if name == "mnli" else "dev.tsv"), lines)
        runs[name] = tuned_run(tmp_path / "runs" / name, load_task(name), [], dev)
    tsv(tmp_path / "MNLI" / "dev_mismatched.tsv", rows["mnli"][1][:31])
    (tmp_path / "AX").mkdir()
    tsv(tmp_path / "AX" / "AX.tsv", GLUE["ax"][1])
    return runs


def test_a_suite_is_averaged_as_the_leaderboard_does(glue_runs: dict[str, TaskRun], tmp_path: Path) -> None:
    report = evaluate_suite(load_suite("glue"), [tmp_path / "runs"], ValueOracle(wrong=5), data=tmp_path)
    assert set(report.reports) == {"cola", "stsb", "mnli", "mnli-mm", "rte"}
    metrics = {name: each.scores.metrics for name, each in report.reports.items() if each.scores}
    cola, stsb, rte = metrics["cola"]["matthews"], metrics["stsb"], metrics["rte"]["accuracy"]
    mnli = (metrics["mnli"]["accuracy"] + metrics["mnli-mm"]["accuracy"]) / 2
    expected = (cola + (stsb["pearson"] + stsb["spearman"]) / 2 + rte + mnli) / 4
    assert report.average == pytest.approx(expected)
    assert report.ci95 is not None and report.ci95[0] < expected < report.ci95[1]
    assert (report.groups_scored, report.groups) == (4, 9)
    assert report.missing["sst2"] == "no run was given" and report.missing["ax"] == "no dev file was found"
    document = json.loads(json.dumps(report.document(), allow_nan=False))
    assert document["tasks"]["stsb"]["pearson"] == pytest.approx(stsb["pearson"])
    assert document["tasks"]["stsb"]["split"] == "dev" and document["tasks_scored"] == 4


def test_the_interval_of_an_average_is_narrower_than_those_of_its_tasks(
    glue_runs: dict[str, TaskRun], tmp_path: Path
) -> None:
    report = evaluate_suite(load_suite("glue"), [tmp_path / "runs"], ValueOracle(wrong=5))
    widths = [score.ci95[1] - score.ci95[0] for name, score in report.scores.items() if name != "stsb"]
    assert report.ci95 is not None and report.ci95[1] - report.ci95[0] < min(widths)


def test_a_suite_writes_the_submission_of_every_task_with_a_test_file(
    glue_runs: dict[str, TaskRun], tmp_path: Path
) -> None:
    tsv(tmp_path / "MNLI" / "test_matched.tsv", GLUE["mnli"][1])
    out = tmp_path / "out"
    evaluate_suite(
        load_suite("glue"), [tmp_path / "runs"], ValueOracle(wrong=5), data=tmp_path, submission=out
    )
    assert sorted(path.name for path in out.iterdir()) == ["AX.tsv", "MNLI-m.tsv"]
    assert (out / "AX.tsv").read_text() == "index\tprediction\n0\tneutral\n"  # by MNLI's run


def test_a_run_of_no_task_of_the_suite_is_refused(glue_runs: dict[str, TaskRun], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is of no task of clue"):
        evaluate_suite(load_suite("clue"), [glue_runs["rte"].run.path], Oracle(wrong=5))
    again = tuned_run(tmp_path / "again", load_task("rte"), [], None)
    with pytest.raises(UsageError, match="are both of rte; name one"):
        evaluate_suite(load_suite("glue"), [glue_runs["rte"].run.path, again.run.path], Oracle(wrong=5))
    with pytest.raises(MissingError, match="neither a fine-tuned run nor a folder"):
        evaluate_suite(load_suite("glue"), [tmp_path / "AX"], Oracle(wrong=5))
