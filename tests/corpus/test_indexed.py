import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpm_cli.corpus.indexed import IndexedDataset, token_dtype
from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import atomic_write
from tests.indexed_files import write_indexed

documents_of_ids = st.lists(st.lists(st.lists(st.integers(0, 60_000), max_size=9), max_size=5), max_size=8)


@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_bytes_follow_megatrons_layout(tmp_path: Path, num_shards: int) -> None:
    write_indexed(tmp_path / "a.b", [[[1, 2, 3], [4]], [[5, 6]]], num_shards=num_shards)
    assert (tmp_path / "a.b.bin").read_bytes() == struct.pack("<6H", 1, 2, 3, 4, 5, 6)
    assert (tmp_path / "a.b.idx").read_bytes() == (
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, 3, 3)
        + struct.pack("<3i", 3, 1, 2)
        + struct.pack("<3q", 0, 6, 8)
        + struct.pack("<3q", 0, 2, 3)
    )


@settings(deadline=None)
@given(documents=documents_of_ids)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, documents: list) -> None:
    dataset = write_indexed(tmp_path_factory.mktemp("indexed") / "train", documents)
    sequences = [sequence for document in documents for sequence in document]
    assert [list(sequence) for sequence in dataset] == sequences
    assert list(dataset.tokens) == [token for sequence in sequences for token in sequence]
    assert dataset.num_documents == len(documents)
    assert list(np.diff(dataset.document_index)) == [len(document) for document in documents]


def test_wide_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    assert token_dtype(65_499) == np.uint16
    dataset = write_indexed(tmp_path / "train", [[[65_500, 99_999]]], vocab_size=65_500 + 40_000)
    assert dataset.dtype == np.int32
    assert list(dataset[0]) == [65_500, 99_999]


def test_the_token_stream_is_read_only(tmp_path: Path) -> None:
    dataset = write_indexed(tmp_path / "train", [[[1, 2]]])
    with pytest.raises(ValueError, match="read-only"):
        dataset.tokens[0] = 7


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "train.bin") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"train\.idx"):
        IndexedDataset(tmp_path / "train")


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"X", "not an indexed dataset"),
        (9, b"\2", "version 2"),
        (17, b"\6", "dtype code 6"),
        (18, b"\7", "take"),
        (26, b"\0", "take"),
        (34 + 4 * 2 + 8 * 2, b"\1", "document index"),
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, offset: int, value: bytes, message: str) -> None:
    write_indexed(tmp_path / "train", [[[1, 2], [3]]])
    path = tmp_path / "train.idx"
    content = bytearray(path.read_bytes())
    content[offset : offset + 1] = value
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=message):
        IndexedDataset(tmp_path / "train")


@pytest.mark.parametrize("name", ["train.idx", "train.bin"])
def test_every_truncation_is_found(tmp_path: Path, name: str) -> None:
    write_indexed(tmp_path / "train", [[[1, 2], [3]], [[4]]])
    content = (tmp_path / name).read_bytes()
    for length in range(len(content)):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(DamagedError, match=name):
            IndexedDataset(tmp_path / "train")
