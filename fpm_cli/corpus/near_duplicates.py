"""Near-duplicates among all clean documents: pairs from MinHash bands, verified, joined into clusters.

The first document of a cluster in the order of the inputs is the one that is kept.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.external_sort import Indices, Rows, run_starts
from fpm_cli.corpus.minhash import Hashes, shingle_set, similarity
from fpm_cli.corpus.work_folder import DOCUMENT_RECORD, WorkFolder

CACHED_SETS = 256


def candidate_pairs(rows: Rows) -> Iterator[tuple[int, int]]:
    """Pairs within each run of equal keys: every document with the first, and with the one before it."""
    starts = run_starts(rows)
    ends = np.append(starts[1:], len(rows))
    several = ends - starts > 1
    for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
        run = rows["index"][start:end].tolist()
        for place in range(1, len(run)):
            yield run[0], run[place]
            if place > 1:
                yield run[place - 1], run[place]


class UnionFind:
    """Disjoint sets of documents (union-find); only documents that have a near-duplicate take memory."""

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
        """Unite two clusters; the lower number represents them."""
        first, second = sorted((self.find(one), self.find(other)))
        if first != second:
            self._parent[second] = first

    def duplicates(self) -> Indices:
        """Every document that is not the first of its cluster, in order."""
        return np.array(sorted(index for index in self._parent if self.find(index) != index), dtype=np.uint64)


class ShingleSets:
    """The shingle set of any clean document by its global number; the most recent ones are cached."""

    def __init__(self, work: WorkFolder, bases: npt.NDArray[np.int64]) -> None:
        """`bases` (num_shards + 1,): the global number of each shard's first document."""
        self._work, self._bases = work, bases
        self._recent: OrderedDict[int, Hashes] = OrderedDict()

    def of(self, index: int) -> Hashes:
        """The shingle set of a document."""
        if index in self._recent:
            self._recent.move_to_end(index)
            return self._recent[index]
        shard = int(np.searchsorted(self._bases, index, side="right")) - 1
        with self._work.file(shard, "records").open("rb") as file:
            file.seek((index - int(self._bases[shard])) * DOCUMENT_RECORD.itemsize)
            record = np.frombuffer(file.read(DOCUMENT_RECORD.itemsize), DOCUMENT_RECORD)[0]
        with self._work.file(shard, "text").open("rb") as file:
            file.seek(int(record["text_start"]))
            self._recent[index] = shingle_set(file.read(int(record["text_bytes"])))
        if len(self._recent) > CACHED_SETS:
            self._recent.popitem(last=False)
        return self._recent[index]


def near_duplicates(buckets: Iterable[Rows], shingle_sets: ShingleSets, threshold: float) -> Indices:
    """Documents to drop: all but the first of each cluster of verified pairs of at least `threshold`."""
    clusters = UnionFind()
    for rows in buckets:
        failed: set[tuple[int, int]] = set()
        for pair in candidate_pairs(rows):
            one, other = pair
            if pair in failed or clusters.find(one) == clusters.find(other):
                continue
            if similarity(shingle_sets.of(one), shingle_sets.of(other)) >= threshold:
                clusters.join(one, other)
            else:
                failed.add(pair)
    return clusters.duplicates()
