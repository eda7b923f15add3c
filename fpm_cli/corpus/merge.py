"""Concatenates the files of all shards into the indexed files of one split; memory stays flat."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.encode import WORDS
from fpm_cli.corpus.indexed import byte_pointers, index_header
from fpm_cli.corpus.manifest import Split, SplitFacts
from fpm_cli.corpus.work_folder import WorkFolder
from fpm_cli.files import CHUNK_BYTES, atomic_write

CHUNK_ITEMS = 1 << 18


def merge_split(
    split: Split, facts: SplitFacts, numbers: list[int], dtype: np.dtype[Any], work: WorkFolder, out: Path
) -> None:
    """Write `SPLIT.bin`, `SPLIT.idx` and, where the shards have them, `SPLIT.words.bin` into `out`."""
    parts = {
        kind: [work.file(number, f"{split}.{kind}") for number in numbers]
        for kind in ("bin", "sizes", "lengths", WORDS)
    }
    with atomic_write(out / f"{split}.bin") as file:
        concatenate(parts["bin"], file)
    with atomic_write(out / f"{split}.idx") as file:
        file.write(index_header(dtype, facts.sequences, facts.documents + 1))
        concatenate(parts["sizes"], file)
        position = 0
        for sizes in _chunks(parts["sizes"]):
            file.write(byte_pointers(sizes, dtype, position).tobytes())
            position += int(sizes.sum(dtype=np.int64)) * dtype.itemsize
        file.write(bytes(8))
        boundary = 0
        for lengths in _chunks(parts["lengths"]):
            boundaries = np.cumsum(lengths, dtype=np.int64) + boundary
            file.write(boundaries.tobytes())
            boundary = int(boundaries[-1])
    if all(path.is_file() for path in parts[WORDS]):
        with atomic_write(out / f"{split}.words.bin") as file:
            concatenate(parts[WORDS], file)


def concatenate(paths: list[Path], out: BinaryIO) -> None:
    """Append the content of files to an open one."""
    for path in paths:
        with path.open("rb") as file:
            shutil.copyfileobj(file, out, CHUNK_BYTES)


def _chunks(paths: list[Path]) -> Iterator[npt.NDArray[np.int32]]:
    for path in paths:
        with path.open("rb") as file:
            while len(items := np.fromfile(file, np.int32, CHUNK_ITEMS)):
                yield items
