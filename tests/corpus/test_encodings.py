"""Text in other encodings than UTF-8 never becomes mojibake: it is skipped by name, or read as asked."""

import codecs
import gzip
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpm_cli.encodings import UNKNOWN, UTF8, check_encoding, detect_encoding
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.tokenization.base import Tokenizer
from tests.corpus.builds import build_files, defects, documents, skipped

ZH = (files("fpm_cli.corpus") / "sample" / "zh.txt").read_text(encoding="utf-8").split("\n\n")[:6]
GOOD = "\n\n".join(f"Story {i} begins. It ends." for i in range(8))
FRENCH = "Être ou ne pas être, voilà la question. C'était à Mégara, dans les jardins d'Hamilcar. " * 9
# How each is written, and as which encoding it may be taken: all have the same characters here.
WRITTEN = {
    "gbk": {"gb18030", "gbk"},
    "gb18030": {"gb18030"},
    "big5": {"big5", "cp950"},
    "utf-16": {"utf-16"},
    "utf-16-le": {"utf-16-le"},
    "utf-16-be": {"utf-16-be"},
    "utf-32": {"utf-32"},
}


def written(encoding: str) -> bytes:
    return "\n\n".join(ZH).encode(encoding, errors="ignore")


@pytest.mark.parametrize("encoding", WRITTEN)
@pytest.mark.parametrize("size", [300, 4001, 100_000])
def test_the_encoding_of_chinese_text_is_detected(encoding: str, size: int) -> None:
    assert detect_encoding(written(encoding)[:size]) in WRITTEN[encoding]


def test_english_in_utf16_is_detected() -> None:
    assert detect_encoding(GOOD.encode("utf-16-le")) == "utf-16-le"
    assert detect_encoding(GOOD.encode("utf-16-be")) == "utf-16-be"


def test_latin1_is_no_utf8_and_is_read_by_its_name(tmp_path: Path, gpt: Tokenizer) -> None:
    content = FRENCH.encode("latin-1")
    assert detect_encoding(content) not in (UTF8, UNKNOWN)
    corpus = build_files(tmp_path, {"a.txt": content}, gpt, encoding="latin-1", validation_fraction=0)
    assert documents(corpus) == [FRENCH.strip()]


@pytest.mark.parametrize("encoding", ["gbk", "big5"])
def test_broken_bytes_do_not_hide_an_encoding(encoding: str) -> None:
    lines = written(encoding).split(b"\n")
    lines[9] = b"\xff\xff" + lines[9]
    assert detect_encoding(b"\n".join(lines)) in WRITTEN[encoding]


@settings(deadline=None)
@given(text=st.text(max_size=200), broken=st.integers(0, 3))
def test_utf8_with_a_few_broken_bytes_stays_utf8(text: str, broken: int) -> None:
    content = text.replace("\0", "").encode(errors="ignore")
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        assert detect_encoding(content + b"\xff" * broken + content) == UTF8


def test_bytes_that_are_no_text_have_no_encoding() -> None:
    for seconds in range(99):  # of the time in the header, by which the bytes differ
        assert detect_encoding(gzip.compress(bytes(range(256)) * 99, mtime=seconds)) == UNKNOWN
    for seed in range(9):
        assert detect_encoding(np.random.default_rng(seed).bytes(4096)) == UNKNOWN


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_file_that_is_not_utf8_is_a_named_defect_and_no_document(
    tmp_path: Path, gpt: Tokenizer, packing: str
) -> None:
    content = gzip.compress(written("gbk")) if packing else written("gbk")
    corpus = build_files(tmp_path, {f"a.txt{packing}": content, "b.txt": GOOD.encode()}, gpt)
    assert documents(corpus) == sorted(GOOD.split("\n\n"))
    assert corpus.manifest.counts.defects == {"not_utf8": 1}
    [defect] = defects(corpus)
    assert (defect["input"], defect["reason"]) == (f"a.txt{packing}", "not_utf8")
    assert "likely gb18030: --encoding gb18030 or auto" in defect["detail"]
    assert skipped(corpus) == {f"a.txt{packing}": "not_utf8"}


@pytest.mark.parametrize("encoding", ["gbk", "big5", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("asked", ["auto", "name"])
def test_an_encoding_that_is_asked_for_is_read(
    tmp_path: Path, gpt: Tokenizer, encoding: str, asked: str
) -> None:
    contents = {
        "a.txt": written(encoding),
        "b.txt": GOOD.encode(),
        "c.txt.gz": gzip.compress(written("utf-8")),
    }
    corpus = build_files(
        tmp_path, contents, gpt, encoding="auto" if asked == "auto" else encoding, validation_fraction=0
    )
    representable = [text.encode(encoding, "ignore").decode(encoding) for text in ZH]
    assert documents(corpus) == sorted({*representable, *ZH, *GOOD.split("\n\n")})
    assert skipped(corpus) == {}


def test_json_lines_in_gbk_are_read_by_their_encoding(tmp_path: Path, gpt: Tokenizer) -> None:
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in ZH)
    contents = {"a.jsonl": lines.encode("gbk")}
    with pytest.raises(MissingError, match=r"nothing to read: not_utf8 1: a\.jsonl \(likely gb18030"):
        build_files(tmp_path, contents, gpt, "jsonl")
    assert not (tmp_path / "corpus").exists() and not (tmp_path / "corpus.building").exists()
    corpus = build_files(tmp_path, contents, gpt, "jsonl", encoding="auto", validation_fraction=0)
    assert documents(corpus) == sorted(ZH)


def test_a_document_of_mostly_invalid_characters_is_dropped_and_one_of_few_is_repaired(
    tmp_path: Path, gpt: Tokenizer
) -> None:
    parts = [
        *(text.encode() for text in GOOD.split("\n\n") * 9),
        "这一段是另一种编码的文字，不是乱码。".encode("gbk"),
        "An old decoder left \ufffd\ufffd and \ufffd here.".encode(),
        b"One \xff byte in a document that is otherwise fine.",
    ]
    corpus = build_files(tmp_path, {"a.txt": b"\n\n".join(parts)}, gpt, validation_fraction=0)
    assert corpus.manifest.counts.dropped["too_many_invalid_characters"] == 2
    assert corpus.manifest.counts.repaired == {"invalid_utf8": 1}
    assert "One  byte in a document that is otherwise fine." in documents(corpus)
    places = [defect["offset"] for defect in defects(corpus) if "too_many" in defect["reason"]]
    assert places == [b"\n\n".join(parts).index(part) for part in parts[-3:-1]]


def test_the_share_of_invalid_characters_is_an_option(tmp_path: Path, gpt: Tokenizer) -> None:
    content = GOOD.encode() + b"\n\n\xff\xff\xff of some thirty characters here"
    corpus = build_files(tmp_path, {"a.txt": content}, gpt, max_invalid=0.2)
    assert corpus.manifest.counts.dropped == {}


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'gb18030'"):
        check_encoding("gb18O30")
    with pytest.raises(UsageError, match="base64"):
        check_encoding("base64")
