"""Compressed text is read the same everywhere: corpora, tokenizers, tasks."""

import gzip
import io
import json
from pathlib import Path

import pytest
import zstandard

from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.options import build_options
from fpm_cli.streams import is_compressed, open_input, open_stdin, without_compression_suffix
from fpm_cli.tasks.rows import text_lines
from fpm_cli.tokenization import train_tokenizer
from fpm_cli.tokenization.text_files import DecodeErrors, read_lines

LINES = [json.dumps({"text": f"Line {i} of a text."}) for i in range(2000)]
CONTENT = "\n".join(LINES).encode() + b"\n"


def large_window(content: bytes, window_log: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=window_log, enable_ldm=True, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(content) + compressor.flush()


PACKINGS = {
    "gzip": gzip.compress(CONTENT),
    "two gzip members": gzip.compress(CONTENT[:999]) + gzip.compress(CONTENT[999:]),
    "gzip padded with zeros": gzip.compress(CONTENT) + bytes(10_240),
    "padded gzip members": gzip.compress(CONTENT[:999])
    + bytes(5000)
    + gzip.compress(CONTENT[999:])
    + bytes(9),
    "zstd": zstandard.compress(CONTENT),
    "zstd frames": zstandard.compress(CONTENT[:999]) + zstandard.compress(CONTENT[999:]),
    "zstd --long=27": large_window(CONTENT, 27),
    "zstd --long=30": large_window(CONTENT, 30),
    "zstd --long=31": large_window(CONTENT, 31),
}


@pytest.fixture(params=PACKINGS)
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    suffix = ".zst" if request.param.startswith("zstd") else ".gz"
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACKINGS[request.param])
    return path


def test_every_packing_is_read_whole(packed: Path) -> None:
    with open_input(packed) as stream:
        assert stream.read() == CONTENT
        assert stream.defect is None


def test_tokenizers_tasks_and_corpora_read_the_same(packed: Path, tmp_path: Path) -> None:
    assert list(read_lines([packed], "strict", DecodeErrors())) == LINES
    assert [line.text for line in text_lines(packed)] == LINES
    options = build_options("jsonl", near_duplicates=0)
    counts = build_corpus([packed], train_tokenizer("gpt-en", ["a"], 257), tmp_path / "c", options)
    assert counts.corpus.manifest.counts.documents_kept == len(LINES)
    assert counts.corpus.manifest.counts.defects == {}


@pytest.mark.parametrize("name", ["a.jsonl", "a.GZ", "a"])
def test_content_tells_the_packing_whatever_the_name(tmp_path: Path, name: str) -> None:
    for content in (PACKINGS["gzip"], PACKINGS["zstd"]):
        (tmp_path / name).write_bytes(content)
        assert is_compressed(tmp_path / name)
        with open_input(tmp_path / name) as stream:
            assert stream.read() == CONTENT


def test_standard_input_may_be_compressed_and_stays_open() -> None:
    file = io.BufferedReader(io.BytesIO(PACKINGS["gzip"]))
    with open_stdin(file) as stream:
        assert stream.read() == CONTENT
    assert not file.closed


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PACKINGS["gzip"][:-9], "truncated"),
        (PACKINGS["zstd"][:-9], "truncated"),
        (PACKINGS["gzip"] + b"no member", "corrupt_archive"),
        (PACKINGS["zstd"] + b"no frame", "corrupt_archive"),
    ],
)
def test_damage_ends_the_stream_and_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / ("a.gz" if content.startswith(b"\x1f") else "a.zst")
    path.write_bytes(content)
    with open_input(path) as stream:
        assert CONTENT.startswith(stream.read())
        assert stream.defect is not None and stream.defect.reason == reason
    *_, last = text_lines(path)
    assert last.text is None and last.reason.startswith(reason)


def test_an_encoding_is_converted_while_reading(tmp_path: Path) -> None:
    text = "第一行\n第二行 " * 99_999
    (tmp_path / "a.gz").write_bytes(gzip.compress(text.encode("gb18030")))
    with open_input(tmp_path / "a.gz", encoding="gb18030") as stream:
        assert stream.read().decode() == text


def test_a_plain_name_is_the_one_without_the_compression_suffix() -> None:
    names = ["a.txt", "a.txt.gz", "a.txt.ZST", "a.gz.txt", "gz", ".gz"]
    assert [without_compression_suffix(name) for name in names] == [
        "a.txt",
        "a.txt",
        "a.txt",
        "a.gz.txt",
        "gz",
        "",
    ]
