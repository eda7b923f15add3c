"""Sorts rows of keys in buckets on disk, so that memory does not grow with their number."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROW = np.dtype([("key", "<u8"), ("check", "<u8"), ("index", "<u8")])
Rows = npt.NDArray[np.void]
Indices = npt.NDArray[np.uint64]

ROWS_PER_BUCKET = 1 << 17
MAX_BUCKETS = 512


def make_rows(keys: npt.NDArray[Any], checks: npt.NDArray[Any] | int, indices: npt.NDArray[Any]) -> Rows:
    """Rows for `sorted_buckets`: a key, what must agree with it, and the document's global number."""
    rows = np.empty(len(keys), dtype=ROW)
    rows["key"], rows["check"], rows["index"] = keys, checks, indices
    return rows


def sorted_buckets(chunks: Iterable[Rows], num_rows: int, folder: Path) -> Iterator[Rows]:
    """Distribute rows over files by their keys and yield each file's rows, sorted by key, check and index.

    Rows with equal keys are in the same bucket. `num_rows` is an estimate of how many there are.
    """
    num_buckets = min(MAX_BUCKETS, 1 + num_rows // ROWS_PER_BUCKET)
    paths = [folder / f"bucket-{bucket:03}" for bucket in range(num_buckets)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for rows in chunks:
            bucket_of = rows["key"] % np.uint64(num_buckets)
            for bucket in np.unique(bucket_of).tolist():
                files[bucket].write(rows[bucket_of == bucket].tobytes())
    for path in paths:
        rows = np.fromfile(path, dtype=ROW)
        path.unlink()
        yield rows[np.lexsort((rows["index"], rows["check"], rows["key"]))]


def repeats(rows: Rows, allowed: int = 1) -> Indices:
    """Indices of a sorted bucket's rows beyond the first `allowed` of their key."""
    starts = run_starts(rows)
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    indices: Indices = rows["index"][rank >= allowed]
    return indices


def run_starts(rows: Rows) -> npt.NDArray[np.int64]:
    """Where each run of equal keys and checks begins in sorted rows."""
    keys, checks = rows["key"], rows["check"]
    is_start = np.ones(len(rows), dtype=bool)
    is_start[1:] = (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])
    return np.flatnonzero(is_start)
