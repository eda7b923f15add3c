"""Finds, over all shards, the documents that repeat others; memory does not grow with their number.

Keys are sorted in buckets on disk. The first document in the order of the inputs is the one kept.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.near import Hashes, shingle_set, similarity
from fpm_cli.corpus.work import RECORD, WorkFolder

ROW = np.dtype([("key", "<u8"), ("check", "<u8"), ("index", "<u8")])
Rows = npt.NDArray[np.void]
Indices = npt.NDArray[np.uint64]

ROWS_PER_BUCKET = 1 << 17
MAX_BUCKETS = 512
CACHED_SETS = 256


def make_rows(keys: npt.NDArray[Any], checks: npt.NDArray[Any] | int, indices: npt.NDArray[Any]) -> Rows:
    """Rows for `buckets`: a key, what must agree with it, and the document's global number."""
    rows = np.empty(len(keys), dtype=ROW)
    rows["key"], rows["check"], rows["index"] = keys, checks, indices
    return rows


def buckets(chunks: Iterable[Rows], num_rows: int, folder: Path) -> Iterator[Rows]:
    """Deal rows out to files by key and yield each file's rows, sorted by key, check and index.

    Rows with the same key come in the same bucket. `num_rows` is an estimate of how many there are.
    """
    number = min(MAX_BUCKETS, 1 + num_rows // ROWS_PER_BUCKET)
    paths = [folder / f"bucket-{bucket:03}" for bucket in range(number)]
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for rows in chunks:
            bucket_of = rows["key"] % np.uint64(number)
            for bucket in np.unique(bucket_of).tolist():
                files[bucket].write(rows[bucket_of == bucket].tobytes())
    for path in paths:
        rows = np.fromfile(path, dtype=ROW)
        path.unlink()
        yield rows[np.lexsort((rows["index"], rows["check"], rows["key"]))]


def repeats(rows: Rows, allowed: int = 1) -> Indices:
    """Indices of a sorted bucket's rows beyond the first `allowed` of their key."""
    starts = _run_starts(rows)
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    indices: Indices = rows["index"][rank >= allowed]
    return indices


def _run_starts(rows: Rows) -> npt.NDArray[np.int64]:
    keys, checks = rows["key"], rows["check"]
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])
    return np.flatnonzero(new)


def candidate_pairs(rows: Rows) -> Iterator[tuple[int, int]]:
    """Pairs within each run of equal keys: every document with the first, and with the one before it."""
    starts = _run_starts(rows)
    ends = np.append(starts[1:], len(rows))
    several = ends - starts > 1
    for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
        run = rows["index"][start:end].tolist()
        for place in range(1, len(run)):
            yield run[0], run[place]
            if place > 1:
                yield run[place - 1], run[place]


class Clusters:
    """Near-duplicates of near-duplicates, joined; only documents that have one take memory."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def find(self, index: int) -> int:
        """The first document of the cluster that `index` belongs to."""
        root = index
        while (parent := self._parent.get(root, root)) != root:
            root = parent
        while (parent := self._parent.get(index, index)) != root and index != root:
            self._parent[index] = root
            index = parent
        return root

    def join(self, one: int, other: int) -> None:
        """Make two clusters one; the lower number leads it."""
        first, second = sorted((self.find(one), self.find(other)))
        if first != second:
            self._parent[second] = first

    def followers(self) -> Indices:
        """Every document that is not the first of its cluster, in order."""
        return np.array(sorted(index for index in self._parent if self.find(index) != index), dtype=np.uint64)


class Texts:
    """Reads the text of any clean document by its global number, and keeps recent shingle sets."""

    def __init__(self, work: WorkFolder, bases: npt.NDArray[np.int64]) -> None:
        """`bases` (num_shards + 1,): the global number of each shard's first document."""
        self._work, self._bases = work, bases
        self._recent: OrderedDict[int, Hashes] = OrderedDict()

    def shingles(self, index: int) -> Hashes:
        """The shingle set of a document."""
        if index in self._recent:
            self._recent.move_to_end(index)
            return self._recent[index]
        shard = int(np.searchsorted(self._bases, index, side="right")) - 1
        with self._work.file(shard, "records").open("rb") as file:
            file.seek((index - int(self._bases[shard])) * RECORD.itemsize)
            record = np.frombuffer(file.read(RECORD.itemsize), RECORD)[0]
        with self._work.file(shard, "text").open("rb") as file:
            file.seek(int(record["text_start"]))
            self._recent[index] = shingle_set(file.read(int(record["text_bytes"])))
        if len(self._recent) > CACHED_SETS:
            self._recent.popitem(last=False)
        return self._recent[index]


def near_duplicates(sorted_buckets: Iterable[Rows], texts: Texts, threshold: float) -> Indices:
    """Documents to drop: all but the first of each cluster of verified pairs of at least `threshold`."""
    clusters = Clusters()
    for rows in sorted_buckets:
        failed: set[tuple[int, int]] = set()
        for pair in candidate_pairs(rows):
            one, other = pair
            if pair in failed or clusters.find(one) == clusters.find(other):
                continue
            if similarity(texts.shingles(one), texts.shingles(other)) >= threshold:
                clusters.join(one, other)
            else:
                failed.add(pair)
    return clusters.followers()
