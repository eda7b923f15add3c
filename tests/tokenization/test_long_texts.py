"""Very long lines and words: the same ids, in bounded memory and time; and no vocabulary from no text."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fpm_cli.errors import MissingError, UsageError
from fpm_cli.tokenization import KINDS, long_texts, train_tokenizer
from fpm_cli.tokenization.bulk import TokenizerSource, encode_lines
from fpm_cli.tokenization.long_texts import MAX_TRAINED_WORD, split_long, split_long_runs

ZH = "今天天气很好，我们去学校。RAID-0 有１２个 test！\r\n第二行　　甲、乙；丙？“引用”……亪乛㐀 在雨中 "
TEXTS = {
    "en": "It was 1859 , the best of times;  it wasn't!\n\n\tThe  end -- “so far”. naïve I'll 3.14 " * 40,
    "zh": ZH * 40,
}


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are split from 97 characters on, at places looked for in the last 23."""
    for module in ("long_texts", "base", "bulk"):
        monkeypatch.setattr(f"fpm_cli.tokenization.{module}.MAX_CHARACTERS", 97)
    monkeypatch.setattr(long_texts, "_SEARCHED", 23)


@pytest.mark.parametrize("language", TEXTS)
def test_the_parts_of_a_text_have_its_ids(tokenizer, language, monkeypatch, short_parts):
    text = TEXTS[language]
    parts = tokenizer.split_long(text)
    assert "".join(parts) == text and (len(parts) > 20 or tokenizer.kind == "t5-en")
    found = tokenizer.encode(text), tokenizer.word_starts(text), tokenizer.offsets(text)
    texts = [text, "short", "", text[:500]]
    batch, ragged = tokenizer.encode_batch(texts), tokenizer.encode_ragged(texts)
    for module in ("long_texts", "base"):
        monkeypatch.setattr(f"fpm_cli.tokenization.{module}.MAX_CHARACTERS", 1 << 20)
    assert found == (tokenizer.encode(text), tokenizer.word_starts(text), tokenizer.offsets(text))
    assert batch == tokenizer.encode_batch(texts)
    expected = tokenizer.encode_ragged(texts)
    assert ragged.ids.tolist() == expected.ids.tolist() and ragged.ends.tolist() == expected.ends.tolist()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_long_line_is_written_as_a_short_one_is(trained, tmp_path, workers, as_json, monkeypatch):
    trained("gpt-zh").save(tmp_path / "t")
    source, lines = TokenizerSource(tmp_path / "t"), ["first", TEXTS["zh"], "", TEXTS["zh"] * 2, "last"]
    expected = "".join(encode_lines(source, lines, as_json, 1))
    monkeypatch.setattr("fpm_cli.tokenization.bulk.MAX_CHARACTERS", 97)
    monkeypatch.setattr("fpm_cli.tokenization.bulk._PIECE_IDS", 7)
    assert "".join(encode_lines(source, lines, as_json, workers)) == expected
    if as_json:
        assert [sorted(json.loads(line)) for line in expected.splitlines()] == [["ids", "tokens"]] * 5


def test_a_text_without_any_place_to_cut_is_cut_at_the_limit(short_parts):
    assert [len(part) for part in split_long("x" * 200)] == [97, 97, 6]
    assert split_long("word " + "x" * 100) == ["word", " " + "x" * 96, "xxxx"]


def test_a_lone_surrogate_is_named_by_its_place_in_the_whole_text(trained, short_parts):
    with pytest.raises(UsageError, match="at character 150"):
        trained("gpt-en").encode("a" * 150 + "\ud800")


def test_long_runs_are_cut_and_ordinary_texts_are_not():
    run = "x" * (2 * MAX_TRAINED_WORD + 1)
    texts = ["ordinary words " * 500, f"a {run} b", "_" * 1001 + "9" * 1001 + " " * 1001]
    cut = list(split_long_runs(texts))
    assert "".join(cut) == "".join(texts) and cut[0] == texts[0]
    assert [len(part) for part in cut[1:4]] == [1002, 1000, 3]
    assert len(cut) == 4 + 4


@pytest.mark.parametrize("character", ["x", "亪", " ", "."])
@pytest.mark.parametrize("kind", KINDS)
def test_training_time_is_linear_in_the_length_of_a_word(kind, character):
    text = "some words and 一些词 here. " * 60
    began = time.process_time()
    train_tokenizer(kind, [text + character * 300_000], 480, allow_smaller=True)
    assert time.process_time() - began < 20  # merges of the whole word take minutes


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\t\n", "\u3000"]])
@pytest.mark.parametrize("kind", KINDS)
def test_no_text_trains_no_vocabulary(kind, texts):
    with pytest.raises(MissingError, match="no text to train on"):
        train_tokenizer(kind, texts, 500, allow_smaller=True)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt-en"])
def test_text_of_which_nothing_is_left_trains_no_vocabulary(kind):
    text = "\u200b\u200b\u2060" if kind.startswith("bert") else "\u2583 \u2583"
    with pytest.raises((MissingError, UsageError), match=r"no text to train on|at least"):
        train_tokenizer(kind, [text], 500, allow_smaller=True)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_bounded_for_one_long_line(trained, tmp_path: Path, kind: str):
    trained(kind).save(tmp_path / "t")
    line = TEXTS[kind[-2:]].replace("\n", " ").replace("\r", " ")
    content = line.encode() * (20_000_000 // len(line.encode()))
    (tmp_path / "long.txt").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    command = [sys.executable, "-m", "fpm_cli", "tokenize", "encode", "--tokenizer", str(tmp_path / "t")]
    subprocess.run([*command, str(tmp_path / "long.txt"), "--out", str(tmp_path / "ids")], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak < max(before, 1_200_000)  # KiB
