"""Text files in every packing, and what is wrong with them said precisely."""

import gzip
import io
import sys
from pathlib import Path

import pytest
import zstandard

from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.tokenization.text_files import STANDARD, DecodeErrors, join_lines, read_lines, write_text

LINES = ["first", "", "第三 \u2028 line\r", "x" * 3_000_000, "last"]
CONTENT = "\n".join(LINES).encode()


def lines_of(*paths, on_error="strict", decode_errors=None):
    return list(read_lines(paths, on_error, decode_errors or DecodeErrors()))


def packed(suffix: str, content: bytes) -> bytes:
    if suffix == ".gz":
        half = len(content) // 2  # two members, as `cat a.gz b.gz` makes
        return gzip.compress(content[:half]) + gzip.compress(content[half:])
    if suffix == ".zst":
        half = len(content) // 2
        return zstandard.compress(content[:half]) + zstandard.compress(content[half:])
    return content


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_are_the_same_from_every_packing(tmp_path, suffix):
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(packed(suffix, CONTENT))
    assert lines_of(path) == LINES
    path.write_bytes(packed(suffix, CONTENT + b"\n"))
    assert lines_of(path, path) == LINES * 2


@pytest.mark.parametrize("suffix", ["", ".txt", ".gz", ".zst"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with write_text(path) as file:
        file.writelines(line + "\n" for line in LINES)
    assert lines_of(path) == LINES
    first = path.read_bytes()
    with write_text(path) as file:
        file.writelines(line + "\n" for line in LINES)
    assert path.read_bytes() == first


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), write_text(tmp_path / "out.zst") as file:
        file.write("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_archive_is_said_to_be(tmp_path, suffix, damage):
    content = packed(suffix, CONTENT)
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content[:-7] if damage == "truncated" else b"\x00" * 9 + content[9:])
    with pytest.raises(DamagedError, match=f"text{suffix}"):
        lines_of(path)


def test_a_missing_file_is_missing(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MissingError):
            lines_of(path)


def test_a_byte_that_is_not_utf8_is_named_by_its_offset(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes("好\nab".encode() + b"\xffc\n" + b"\xed\xa0\x80\nfine\n")
    with pytest.raises(DamagedError, match=r"bad\.txt is not UTF-8 at byte 6 \(0xff\)"):
        lines_of(path)
    decode_errors = DecodeErrors()
    assert lines_of(path, on_error="replace", decode_errors=decode_errors) == [
        "好",
        "ab\ufffdc",
        "\ufffd" * 3,
        "fine",
    ]
    assert (decode_errors.lines, decode_errors.sequences) == (2, 4)
    decode_errors = DecodeErrors()
    assert lines_of(path, on_error="skip", decode_errors=decode_errors) == ["好", "fine"]
    assert decode_errors.lines == 2


def test_standard_input_is_read_by_its_dash(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("一\n二".encode())))
    assert lines_of(STANDARD) == ["一", "二"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(DamagedError, match="standard input"):
        lines_of(Path("-"))


def test_gathered_lines_keep_their_newlines():
    assert list(join_lines(iter(["ab", "c", "def"]), num_characters=4)) == ["ab\nc\n", "def\n"]
