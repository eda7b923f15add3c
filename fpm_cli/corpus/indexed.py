"""Megatron-LM's indexed dataset: raw token ids in `.bin`, and where each sequence begins in `.idx`.

Layout of `.idx`, little-endian (Megatron-LM, megatron/core/datasets/indexed_dataset.py): magic
`MMIDIDX\\0\\0`, version u64 = 1, dtype code u8, number of sequences u64, length of the document index
u64; then int32 sizes in tokens, int64 byte pointers into `.bin`, and the int64 document index: the
sequence at which each document starts, with a leading 0 and the number of sequences at the end.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpm_cli.errors import DamagedError, MissingError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, type[np.generic]] = {4: np.int32, 8: np.uint16}  # the codes that token ids have
MAX_UINT16_VOCAB = 65_499  # Megatron's bound: ids above it are written as int32

Tokens = npt.NDArray[Any]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest type that Megatron-LM reads for ids of this vocabulary: uint16 or int32."""
    return np.dtype(np.uint16 if vocab_size <= MAX_UINT16_VOCAB else np.int32)


def dtype_code(dtype: np.dtype[Any]) -> int:
    """The `.idx` code of a token type."""
    return next(code for code, known in DTYPES.items() if np.dtype(known) == dtype)


def index_bytes(num_sequences: int, num_boundaries: int) -> int:
    """Size of an `.idx` file with that many sequences and entries in its document index."""
    return HEADER.size + 12 * num_sequences + 8 * num_boundaries


def index_header(dtype: np.dtype[Any], num_sequences: int, num_boundaries: int) -> bytes:
    """The first 34 bytes of an `.idx` file."""
    return HEADER.pack(MAGIC, VERSION, dtype_code(dtype), num_sequences, num_boundaries)


def byte_pointers(
    sizes: npt.NDArray[np.int32], dtype: np.dtype[Any], start: int = 0
) -> npt.NDArray[np.int64]:
    """Where each sequence starts in `.bin`, in bytes, the first at `start`."""
    pointers = np.empty(len(sizes), dtype=np.int64)
    if len(sizes):
        pointers[0] = start
        np.cumsum(sizes[:-1], dtype=np.int64, out=pointers[1:])
        pointers[1:] *= dtype.itemsize
        pointers[1:] += start
    return pointers


class IndexedDataset:
    """A memory-mapped indexed dataset; opening reads the header and checks that the sizes agree.

    `sizes` (num_sequences,) int32 tokens, `pointers` (num_sequences,) int64 bytes, `document_index`
    (num_documents + 1,) int64, and `tokens`, the whole `.bin` as one flat read-only array: sequences
    follow one another there, so that the stream can be cut anywhere in constant time.
    """

    sizes: npt.NDArray[np.int32]
    pointers: npt.NDArray[np.int64]
    document_index: npt.NDArray[np.int64]
    tokens: Tokens

    def __init__(self, prefix: Path | str) -> None:
        """Open `PREFIX.bin` and `PREFIX.idx`; MissingError if absent, DamagedError if they disagree."""
        index, data = with_suffix(Path(prefix), ".idx"), with_suffix(Path(prefix), ".bin")
        for path in (index, data):
            if not path.is_file():
                raise MissingError(f"{path} is not there")
        code, num_sequences = _read_header(index)
        self.dtype = np.dtype(DTYPES[code])
        buffer = _map(index, np.dtype(np.uint8))
        sizes_end = HEADER.size + 4 * num_sequences
        pointers_end = sizes_end + 8 * num_sequences
        self.sizes = buffer[HEADER.size : sizes_end].view(np.int32)
        self.pointers = buffer[sizes_end:pointers_end].view(np.int64)
        self.document_index = buffer[pointers_end:].view(np.int64)
        self._check_ends(index, data)
        self.tokens = _map(data, self.dtype)

    @property
    def num_sequences(self) -> int:
        """Sequences in the dataset: documents, or sentences of documents."""
        return len(self.sizes)

    @property
    def num_documents(self) -> int:
        """Documents in the dataset."""
        return len(self.document_index) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens in the dataset."""
        return len(self.tokens)

    def __len__(self) -> int:
        return self.num_sequences

    def __getitem__(self, index: int) -> Tokens:
        """The token ids of one sequence (size,), a read-only view."""
        start = int(self.pointers[index]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.sizes[index])]

    def windows(self, starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        """`length` tokens of the flat stream from each start: (len(starts), length) int64."""
        views = np.lib.stride_tricks.sliding_window_view(self.tokens, length)
        return views[starts].astype(np.int64)

    def __iter__(self) -> Iterator[Tokens]:
        return (self[index] for index in range(len(self)))

    def _check_ends(self, index: Path, data: Path) -> None:
        boundaries = self.document_index
        if boundaries[0] != 0 or boundaries[-1] != self.num_sequences:
            raise DamagedError(
                f"{index}: the document index runs from {boundaries[0]} to {boundaries[-1]}, "
                f"but must run from 0 to {self.num_sequences} sequences"
            )
        expected = 0
        if self.num_sequences:
            expected = int(self.pointers[-1]) + int(self.sizes[-1]) * self.dtype.itemsize
        if data.stat().st_size != expected:
            raise DamagedError(f"{data}: {data.stat().st_size} bytes, but {index.name} says {expected}")


def with_suffix(prefix: Path, suffix: str) -> Path:
    """`prefix` with `suffix` appended, whatever dots the name already has."""
    return prefix.with_name(prefix.name + suffix)


def _read_header(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        raise DamagedError(f"{path}: {len(head)} bytes, but the header alone has {HEADER.size}")
    magic, version, code, num_sequences, num_boundaries = HEADER.unpack(head)
    if magic != MAGIC:
        raise DamagedError(f"{path}: begins with {magic!r}, not {MAGIC!r}: not an indexed dataset")
    if version != VERSION:
        raise DamagedError(f"{path}: version {version}, but only version {VERSION} is known")
    if code not in DTYPES:
        raise DamagedError(f"{path}: dtype code {code}, but token ids are 4 (int32) or 8 (uint16)")
    actual, expected = path.stat().st_size, index_bytes(num_sequences, num_boundaries)
    if num_boundaries < 1 or actual != expected:
        raise DamagedError(
            f"{path}: {actual} bytes, but {num_sequences} sequences and {num_boundaries} boundaries "
            f"take {expected}"
        )
    return code, num_sequences


def _map(path: Path, dtype: np.dtype[Any]) -> Tokens:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)
