"""Task files, sound and broken: every row becomes an example or a rejection that names its line."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpm_cli.errors import DamagedError, FpmError, MissingError, UsageError
from fpm_cli.tasks.definition import Layout, TaskDefinition, load_task
from fpm_cli.tasks.examples import ReadExamples, read_examples

GLUE_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
CS224N_HEADER = "\tid\tsentence1\tsentence2\tis_duplicate"


def written(path: Path, rows: Iterable[str], end: str = "\n") -> Path:
    path.write_text("".join(row + end for row in rows), encoding="utf-8", newline="")
    return path


def whys(read: ReadExamples) -> dict[int, str]:
    assert read.rows == len(read.examples) + len(read.rejected)
    return {bad.line: bad.reason for bad in read.rejected}


def test_glue_rows_keep_their_quotes_and_their_lines(tmp_path: Path) -> None:
    rows = [
        GLUE_HEADER,
        '1\t3\t4\tWhat is "love?\tWhat is love?\t1',
        "2\t5\t6\tonly one question\t0",
        "3\t7\t8\t\tWhy?\t0",
        "",
        "4\t7\t8\tHow?\tWhy?\tmaybe",
        '5\t9\t10\t"How?\tWhy?\t0',
    ]
    read = read_examples(load_task("qqp"), written(tmp_path / "train.tsv", rows))
    assert [(e.id, e.text_a, e.text_b, e.label, e.line) for e in read.examples] == [
        ("1", 'What is "love?', "What is love?", 1, 2),
        ("5", '"How?', "Why?", 0, 7),
    ]
    assert whys(read) == {
        3: "5 fields instead of 6",
        4: "question1 is empty",
        6: "label 'maybe' is not one of the task's: 0, 1",
    }
    assert [bad.id for bad in read.rejected] == [None, "3", "4"]
    assert str(read.rejected[0]) == "train.tsv: line 3: 5 fields instead of 6"


def test_a_glue_test_file_has_ids_and_no_labels(tmp_path: Path) -> None:
    path = written(tmp_path / "test.tsv", ["index\tquestion1\tquestion2", "0\ta\tb", "1\tc\td"])
    read = read_examples(load_task("qqp"), path, labels="optional")
    assert not read.has_labels
    assert [(e.id, e.label) for e in read.examples] == [("0", None), ("1", None)]
    with pytest.raises(DamagedError, match="no column 'is_duplicate' for task qqp; its columns are 'index'"):
        read_examples(load_task("qqp"), path)


def test_crlf_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    rows = [GLUE_HEADER, "1\t3\t4\tHow?\tWhy?\t1"]
    plain = read_examples(load_task("qqp"), written(tmp_path / "plain.tsv", rows))
    odd = read_examples(
        load_task("qqp"), written(tmp_path / "odd.tsv", ["\ufeff" + rows[0], rows[1]], "\r\n")
    )
    assert [(e.id, e.text_a, e.text_b, e.label) for e in odd.examples] == [
        (e.id, e.text_a, e.text_b, e.label) for e in plain.examples
    ]


def test_a_quote_that_does_not_close_costs_its_own_row_only(tmp_path: Path) -> None:
    rows = [
        CS224N_HEADER,
        '7\ta1\t"""Is ""this"" one?"""\tWhy?\t1.0',
        '8\ta2\t"never closed\tWhy?\t0.0',
        "9\ta3\tHow?\tWhy?\t0.0",
        '10\ta4\t"closed" and on\tWhy?\t0.0',
        '11\ta5\t"over\ntwo lines"\tWhy?\t1.0',
        '12\ta6\tHow?\t"never closed\t0.0',
    ]
    read = read_examples(load_task("qqp"), written(tmp_path / "quora.csv", rows))
    assert [(e.id, e.text_a, e.line) for e in read.examples] == [
        ("a1", '"Is "this" one?"', 2),
        ("a3", "How?", 4),
        ("a5", "over\ntwo lines", 6),
    ]
    assert {line: why.split(" (")[0] for line, why in whys(read).items()} == {
        3: "quotes are not balanced",
        5: "quotes are not balanced",
        8: "quotes are not balanced",
    }


def test_a_quote_left_open_does_not_swallow_rows_up_to_the_next_quote(tmp_path: Path) -> None:
    rows = ["text,label", '"left open,0', "b,1", "c,0", '"d",1']
    task = TaskDefinition(
        name="own",
        language="en",
        labels=("0", "1"),
        layouts=(Layout(format="csv", text_a=("text",)),),
    )
    read = read_examples(task, written(tmp_path / "own.csv", rows))
    assert [e.text_a for e in read.examples] == ["b", "c", "d"] and list(whys(read)) == [2]


def test_json_keys_with_blanks_and_numbers_for_labels_are_read(tmp_path: Path) -> None:
    rows = [
        '{" label": "116", "sentence ": "甲"}',
        '{"label": 100, "sentence": "乙", "id": 17}',
        '{"label_desc": "news_car", "sentence": "丙"}',
        '{"label": "105", "sentence": "丁"}',
        '{"label": "100", "sentense": "戊"}',
        '{"label": "100", "sentence": ["己"]}',
        '{"label": "100", "sentence": "庚"',
        '["100", "辛"]',
        '{"label": true, "sentence": "壬"}',
        '{"sentence": "癸"}',
    ]
    read = read_examples(load_task("tnews"), written(tmp_path / "dev.json", rows))
    assert [(e.id, e.text_a, e.label) for e in read.examples] == [
        ("0", "甲", 14),
        ("17", "乙", 0),
        ("2", "丙", 6),
    ]
    why = whys(read)
    assert why[4].startswith("label '105' is not one of the task's")
    assert why[5] == "no sentence; did you mean 'sentense'?"
    assert why[6] == "sentence is not a text but ['己']"
    assert why[7].startswith("not JSON") and why[8] == "not a JSON object"
    assert why[9] == "label is not a label but True" and why[10] == "no label"


def test_bytes_that_are_no_text_are_rejected_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    content = [
        "甲\tnews_car".encode(),
        b"\xff\tnews_car",
        b"a\0b\tnews_car",
        "乙\u2028丙\u0085丁\tnews_car".encode(),
        b"x" * (1 << 20) + b"\tnews_car",
    ]
    path.write_bytes(b"\n".join(content))
    read = read_examples(load_task("tnews"), path)
    assert [e.text_a for e in read.examples] == ["甲", "乙\u2028丙\u0085丁"]
    assert whys(read) == {
        2: "not UTF-8 at byte 0 of the line",
        3: "a NUL character",
        5: "longer than 1048576 bytes",
    }


def test_max_bad_refuses_and_says_what_and_where(tmp_path: Path) -> None:
    path = written(tmp_path / "train.tsv", ["甲\tnews_car", "乙\tnews_cars", "丙"])
    tnews = load_task("tnews")
    assert read_examples(tnews, path, max_bad=2).rows == 3
    with pytest.raises(DamagedError) as error:
        read_examples(tnews, path, max_bad=0)
    assert error.value.exit_status == 6
    assert "2 of 3 rows rejected, and --max-bad allows 0; line 2: label 'news_cars'" in str(error.value)
    assert "did you mean 'news_car'?; line 3: 1 fields instead of 2" in str(error.value)


def test_a_file_without_one_good_row_is_refused_whatever_max_bad_is(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="2 of 2 rows rejected, so none is left; line 1: label"):
        read_examples(load_task("tnews"), written(tmp_path / "train.tsv", ["甲\tx", "乙\ty"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no rows"),
        (b"\n \n", "no rows"),
        ("id\tquestion1".encode("utf-16"), "this is UTF-16; save it as UTF-8"),
        (
            b"id\tquestion_1\tquestion2\tis_duplicate\n",
            "no column 'question1' for task qqp; did you mean 'question_1'",
        ),
        (GLUE_HEADER.encode() + b"\n", "no rows"),
        (b"\xff\n", "line 1: not UTF-8 at byte 0"),
    ],
)
def test_a_file_that_does_not_fit_says_what_it_lacks(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "dev.tsv").write_bytes(content)
    with pytest.raises(DamagedError, match=said):
        read_examples(load_task("qqp"), tmp_path / "dev.tsv")


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        read_examples(load_task("qqp"), tmp_path / "dev.tsv")


def test_keywords_are_appended_when_the_task_says_so(tmp_path: Path) -> None:
    task = load_task("tnews").model_copy(update={"append": ("keywords",)})
    rows = [{"label": "100", "sentence": "甲", "keywords": words} for words in ("乙,丙", "")]
    path = written(tmp_path / "dev.json", [json.dumps(row) for row in rows])
    assert [e.text_a for e in read_examples(task, path).examples] == ["甲 乙,丙", "甲"]
    with pytest.raises(UsageError, match="no column 'keywords' to append"):
        read_examples(task, written(tmp_path / "train.tsv", ["甲\tnews_car"]))


@pytest.mark.parametrize("form", ["folder", "split"])
def test_a_saved_data_set_is_read_with_its_class_names(tmp_path: Path, form: str) -> None:
    import datasets

    features = datasets.Features(
        sentence=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(load_task("tnews").labels)),
        idx=datasets.Value("int32"),
    )
    columns = {"sentence": ["甲", "", "乙"], "label": [14, 0, -1], "idx": [5, 6, 7]}
    data = datasets.Dataset.from_dict(columns, features=features)
    saved = tmp_path / "saved"
    if form == "split":
        datasets.DatasetDict(train=data, validation=data).save_to_disk(str(saved))
        with pytest.raises(UsageError, match=r"several splits; name one: .*saved/train, .*saved/validation"):
            read_examples(load_task("tnews"), saved)
    else:
        data.save_to_disk(str(saved))
    read = read_examples(load_task("tnews"), saved / "validation" if form == "split" else saved)
    assert [(e.id, e.text_a, e.label, e.line) for e in read.examples] == [("5", "甲", 14, 1)]
    assert whys(read) == {2: "sentence is empty", 3: "no label"}


def test_a_data_set_that_is_not_cached_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(MissingError, match="neither a saved folder nor in the cache"):
        read_examples(load_task("qqp"), "no_such_set_anywhere:validation")


LINES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [
                GLUE_HEADER.encode(),
                CS224N_HEADER.encode(),
                b'1\ta\t"b\tc\t0',
                b'1\ta\t"b"\t"c"\t1.0',
                b"1\t2\t3\ta\tb\t0\r",
                b'{"label": "100", "sentence": "x"}',
                b'{"label": "100", "sentence": "\\ud800"}',
                b"x\tnews_car",
                b'"',
                b"\xef\xbb\xbf",
            ]
        ),
    ),
    max_size=12,
)


@pytest.mark.parametrize("name", ["qqp", "tnews"])
@pytest.mark.parametrize("labels", ["required", "optional"])
@pytest.mark.parametrize("suffix", ["tsv", "json"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES)
def test_any_bytes_are_read_or_refused(
    tmp_path: Path, name: str, labels: str, suffix: str, lines: list[bytes]
) -> None:
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(b"\n".join(lines))
    task = load_task(name)
    try:
        read = read_examples(task, path, labels=labels)  # type: ignore[arg-type]
    except FpmError as error:
        assert error.exit_status == 6
        return
    assert (
        read.rows == len(read.examples) + len(read.rejected) <= sum(map(bool, b"\n".join(lines).split(b"\n")))
    )
    at = [place.line for place in (*read.examples, *read.rejected)]
    assert len(set(at)) == len(at)
    for example in read.examples:
        assert (example.text_a.strip() and (example.text_b or "").strip() != "") or not task.is_pair
        assert (example.label is not None) == read.has_labels
        (example.text_a + (example.text_b or "")).encode()


@pytest.mark.parametrize(
    ("task", "file", "rows", "rejected_lines", "classes"),
    [
        ("qqp", "qqp_cs224n/quora-dev.csv", 10_000, [2577], {0: 6262, 1: 3737}),
        ("qqp", "qqp_cs224n/quora-train-small.csv", 5_000, [], {0: 3144, 1: 1856}),
        ("qqp", "qqp_cs224n/quora-train-pre-left.csv", 8_507, [], {0: 5332, 1: 3175}),
        ("tnews", "tnews/train.tsv", 48_983, [], {0: 1037, 12: 241, 14: 3145}),
        ("tnews", "tnews/dev.json", 10_000, [], {}),
        ("tnews", "tnews/test.json", 10_000, [], {}),
    ],
)
def test_real_files_are_read_whole(
    shared_data: Path, task: str, file: str, rows: int, rejected_lines: list[int], classes: dict[int, int]
) -> None:
    read = read_examples(load_task(task), shared_data / file, labels="optional")
    assert read.rows == rows and list(whys(read)) == rejected_lines
    labels = [example.label for example in read.examples]
    assert {label: labels.count(label) for label in classes} == classes
    assert read.has_labels == (file != "tnews/test.json")


def test_real_titles_are_the_same_in_both_of_their_files(shared_data: Path) -> None:
    as_json, as_table = (
        read_examples(load_task("tnews"), shared_data / "tnews" / name).examples
        for name in ("dev.json", "dev.tsv")
    )
    assert [(e.text_a, e.label) for e in as_json] == [(e.text_a, e.label) for e in as_table]


PAIRS = {"text_a": "text_a", "text_b": "text_b"}
AFQMC_LIKE = Layout(format="tsv", quoting=False, columns=("text_a", "text_b", "label"), **PAIRS)
MRPC_LIKE = Layout(
    format="tsv", quoting=False, text_a=("#1 String",), text_b=("#2 String",), label=("Quality",)
)


@pytest.mark.parametrize(
    ("layout", "file", "rows"),
    [
        (AFQMC_LIKE, "zh_pairs_bertorch/AFQMC/train.txt", 34_334),
        (AFQMC_LIKE, "zh_pairs_bertorch/AFQMC/test.txt", 3_861),  # without labels
        (AFQMC_LIKE, "zh_pairs_bertorch/LCQMC/dev.txt", 8_802),
        (AFQMC_LIKE, "zh_pairs_bertorch/LCQMC/test.txt", 12_500),
        (MRPC_LIKE, "glue_small/glue_data/MRPC/train.tsv", 3_667),  # 3,668 lines, a byte order mark
    ],
)
def test_real_files_of_tasks_of_ones_own_are_read_whole(
    shared_data: Path, layout: Layout, file: str, rows: int
) -> None:
    task = TaskDefinition(name="own", language="zh", labels=("0", "1"), layouts=(layout,))
    read = read_examples(task, shared_data / file, labels="optional")
    assert (read.rows, len(read.rejected)) == (rows, 0)
    assert read.has_labels == (file != "zh_pairs_bertorch/AFQMC/test.txt")
    assert all(example.text_b for example in read.examples)
