"""Copies of evaluation texts are found in documents however they are written; other texts are not."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.cli.app import run
from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.contamination import (
    MAX_NGRAM,
    EvaluationIndex,
    OverlapSearch,
    _ngram_hashes,
    token_hashes,
)
from fpm_cli.corpus.options import build_options
from fpm_cli.tokenization.base import Tokenizer
from tests.corpus.builds import documents
from tests.corpus.planted_copies import COPIES, LINES, tokens_of


@pytest.mark.parametrize("language", LINES)
@pytest.mark.parametrize("copy", COPIES)
def test_every_planted_copy_is_found(language: str, copy: str) -> None:
    rows, rest = LINES[language][:60], LINES[language][60:]
    index = EvaluationIndex.of(rows)
    chance = random.Random(5)
    found = sum(
        index.is_in("\n".join([chance.choice(rest), "before " + COPIES[copy](row), chance.choice(rest)]))
        for row in rows
    )
    assert found == len(rows)


@pytest.mark.parametrize("language", LINES)
def test_unrelated_text_gives_no_false_alarm(language: str) -> None:
    lines = list(dict.fromkeys(LINES[language]))
    half = len(lines) // 2
    index = EvaluationIndex.of(lines[:half])
    alarms = [line for line in lines[half:] if index.is_in(line)]
    known = {gram for line in lines[:half] for gram in _grams(line)}
    assert alarms == [line for line in lines[half:] if known & set(_grams(line))]
    assert len(alarms) <= 0.01 * half


@pytest.mark.parametrize("language", LINES)
@pytest.mark.parametrize("copy", COPIES)
def test_the_rows_that_have_a_copy_are_told_from_those_that_have_none(language: str, copy: str) -> None:
    lines = list(dict.fromkeys(LINES[language]))
    planted, absent, rest = lines[0:120:2], lines[1:120:2], lines[120:]
    search = OverlapSearch([[row] for row in (*planted, *absent)])
    for row, around in zip(planted, rest, strict=False):
        search.add("\n".join([around, "before " + COPIES[copy](row)]))
    assert len(rest) >= len(planted)
    assert search.is_found[: len(planted)].all()
    assert search.is_whole[: len(planted)].all() == (copy != "partial")
    in_documents = {gram for line in (*planted, *rest[: len(planted)]) for gram in _grams(line)}
    shared = [bool(in_documents & set(_grams(row))) for row in absent]
    alarms = search.is_found[len(planted) :]
    assert not (alarms & ~np.array(shared)).any() and alarms.sum() <= 1
    assert copy != "partial" or not search.is_whole.any()


def test_a_text_is_whole_only_if_one_document_has_all_of_it() -> None:
    text = LINES["en"][0]
    half = len(token_hashes(text)) // 2
    search = OverlapSearch([[text], ["so short"], ["one word, other words", "SO short!"]])
    for document in (tokens_of(text, 0, half + MAX_NGRAM - 1), tokens_of(text, half, half)):
        search.add(document)
    assert search.is_found.tolist() == [True, False, False] and not search.is_whole.any()
    search.add("a line\nso short\n")
    search.add(f"{text} so short")
    assert search.is_found.tolist() == search.is_whole.tolist() == [True, True, True]


def _grams(text: str) -> list[tuple[int, ...]]:
    tokens = token_hashes(text).tolist()
    return [tuple(tokens[begin : begin + MAX_NGRAM]) for begin in range(len(tokens) - MAX_NGRAM + 1)]


@pytest.mark.parametrize(
    ("row", "document", "is_found"),
    [
        ("one two three four five six seven eight", "0 One two, three four five six seven EIGHT 9", True),
        ("one two three four five six seven eight", "one two three four five six seven 8", False),
        ("what is love?", "line\n what is LOVE\nline", True),
        ("what is love?", "so what is love to you", False),
        ("你好吗", "他说\n你 好 吗？", True),
        ("你好吗", "你好吗他说", False),
        ("?!", "?!", False),
        ("", "", False),
    ],
)
def test_short_texts_are_found_whole(row: str, document: str, is_found: bool) -> None:
    assert EvaluationIndex.of([row]).is_in(document) == is_found


@given(tokens=st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=40), size=st.integers(1, 3))
def test_hashes_of_ngrams_are_those_of_python_integers(tokens: list[int], size: int) -> None:
    expected = []
    for begin in range(len(tokens) - size + 1):
        value = 0
        for token in tokens[begin : begin + size]:
            value = (value * 0x9E3779B97F4A7C15 + token) % 2**64
        expected.append(value)
    assert _ngram_hashes(np.array(tokens, np.uint64), size).tolist() == expected


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    index = EvaluationIndex.of([*LINES["zh"][:9], "short", "one two three four five six seven eight"])
    index.write(tmp_path / "index.npz")
    assert EvaluationIndex.read(tmp_path / "index.npz").fingerprint == index.fingerprint
    assert EvaluationIndex.of(["other"]).fingerprint != index.fingerprint


def test_contaminated_documents_are_dropped_from_a_corpus(tmp_path: Path, gpt: Tokenizer) -> None:
    texts = LINES["zh"][:30]
    (tmp_path / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    options = build_options("text", near_duplicates=0, validation_fraction=0)
    corpora = [
        build_corpus([tmp_path / "a.txt"], gpt, tmp_path / name, options, evaluation_texts=rows).corpus
        for name, rows in (("plain", []), ("clean", [" ".join(texts[3]), texts[7][2:40]]))
    ]
    assert corpora[0].manifest.options["contamination"] == ""
    assert corpora[1].manifest.counts.dropped == {"contaminated": 2}
    assert documents(corpora[1]) == sorted({*documents(corpora[0])} - {texts[3].strip(), texts[7].strip()})


def test_the_command_takes_a_tasks_file(tmp_path: Path, gpt: Tokenizer, capsys) -> None:
    rows = [{"sentence": line[:30], "label": "101", "label_desc": "news_culture"} for line in LINES["zh"][:3]]
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.txt").write_text("\n\n".join(LINES["zh"][:12]), encoding="utf-8")
    gpt.save(tmp_path / "tokenizer")
    arguments = ["build-corpus", "text", str(tmp_path / "a.txt"), "--tokenizer", str(tmp_path / "tokenizer")]
    arguments += ["--near-duplicates", "0", "--workers", "1", "--json", "--out"]
    request = f"tnews={tmp_path / 'dev.json'}"
    assert run([*arguments, str(tmp_path / "corpus"), "--decontaminate", request]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == {"contaminated": 3}
    assert run([*arguments, str(tmp_path / "corpus-2"), "--decontaminate", "tnews"]) == 2
