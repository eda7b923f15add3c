"""Between the two halves of the pipeline: which clean documents repeat others, over all shards.

Leaves one byte per document for each shard (0: kept; else an index into `REASONS`). Repeated on the same
clean shards it gives the same bytes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.clean import CLEAN, defect_line
from fpm_cli.corpus.external_sort import Indices, Rows, make_rows, repeats, sorted_buckets
from fpm_cli.corpus.minhash import NUM_BANDS
from fpm_cli.corpus.near_duplicates import ShingleSets, near_duplicates
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.shards import Shard
from fpm_cli.corpus.work_folder import Records, WorkFolder
from fpm_cli.files import atomic_write
from fpm_cli.progress import StageReport, ignore_stage_report

# Files of a build: the summary of this stage, and the defects that it finds.
DEDUPLICATED, DUPLICATE_DEFECTS = "deduplicated.json", "duplicates.defects"
REASONS = ("", "duplicate_id", "exact_duplicate", "beyond_responses", "near_duplicate")
KEPT, ID, EXACT, BEYOND, NEAR = range(len(REASONS))

# (shard, number within the shard of the first, records): a chunk of a cleaned shard
Chunk = tuple[int, int, Records]


class Deduplicator:
    """Holds one byte per document in memory, and sorted keys on disk for one kind of duplicate at a time."""

    def __init__(self, shards: list[Shard], options: BuildOptions, work: WorkFolder) -> None:
        self._shards, self._options, self._work = shards, options, work
        sizes = [work.summary(shard.number, CLEAN)["kept"] for shard in shards]
        # (num_shards + 1,): the global number of each shard's first document
        self._first_documents = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._drop_codes = np.zeros(self._first_documents[-1], dtype=np.uint8)

    def deduplicate(self, report: StageReport = ignore_stage_report) -> None:
        """Find the duplicates in a pass for each kind, and write every shard's `drops`."""
        limit = self._options.max_responses
        passes: list[Callable[[], None]] = [
            lambda: self._drop_repeats(ID, lambda records: (records["id"], 0, records["id"] != 0)),
            lambda: self._drop_repeats(
                EXACT, lambda records: (records["digest_low"], records["digest_high"], None)
            ),
        ]
        if limit:
            passes.append(
                lambda: self._drop_repeats(
                    BEYOND, lambda records: (records["group"], 0, records["group"] != 0), limit
                )
            )
        if self._options.near_duplicates:
            passes.append(self._drop_near)
        report("duplicates", 0, len(passes))
        for done, find in enumerate(passes, start=1):
            find()
            report("duplicates", done, len(passes))
        for shard in self._shards:
            with atomic_write(self._work.file(shard.number, "drops")) as file:
                file.write(self._drop_codes_of(shard.number).tobytes())

    def dropped(self) -> dict[str, int]:
        """How many documents are dropped for each reason."""
        counts = np.bincount(self._drop_codes, minlength=len(REASONS)).tolist()
        return {reason: counts[code] for code, reason in enumerate(REASONS) if code and counts[code]}

    def kept_digests(self) -> Iterator[npt.NDArray[np.uint64]]:
        """The upper half of the digest of each document that is kept, in chunks."""
        for number, start, records in self._chunks():
            drop_codes = self._drop_codes_of(number)[start : start + len(records)]
            yield records["digest_high"][drop_codes == KEPT]

    def write_defects(self) -> dict[str, int]:
        """Write where the repeated ids are, and return their number by reason."""
        count = 0
        with atomic_write(self._work.path / DUPLICATE_DEFECTS) as file:
            for number, start, records in self._chunks():
                drop_codes = self._drop_codes_of(number)[start : start + len(records)]
                for record in records[drop_codes == ID]:
                    count += 1
                    name = self._shards[number].input.name
                    file.write(defect_line(name, int(record["offset"]), REASONS[ID], ""))
        return {REASONS[ID]: count} if count else {}

    def _drop_codes_of(self, number: int) -> npt.NDArray[np.uint8]:
        return self._drop_codes[self._first_documents[number] : self._first_documents[number + 1]]

    def _chunks(self) -> Iterator[Chunk]:
        for shard in self._shards:
            start = 0
            for records in self._work.records(shard.number):
                yield shard.number, start, records
                start += len(records)

    def _rows(self, keys: Callable[[Records], tuple[Any, Any, Any]]) -> Iterator[Rows]:
        """Rows of the documents that are kept so far; `keys` gives key, check and an optional mask."""
        for number, start, records in self._chunks():
            first = int(self._first_documents[number]) + start
            chosen = self._drop_codes[first : first + len(records)] == KEPT
            key, check, mask = keys(records)
            if mask is not None:
                chosen &= mask
            if chosen.any():
                check = check if isinstance(check, int) else check[chosen]
                yield make_rows(key[chosen], check, np.flatnonzero(chosen) + first)

    def _drop_repeats(
        self, drop_code: int, keys: Callable[[Records], tuple[Any, Any, Any]], allowed: int = 1
    ) -> None:
        rows = self._rows(keys)
        for bucket in sorted_buckets(rows, len(self._drop_codes), self._work.path):
            self._drop(repeats(bucket, allowed), drop_code)

    def _drop_near(self) -> None:
        num_rows = int((self._drop_codes == KEPT).sum()) * NUM_BANDS
        shingle_sets = ShingleSets(self._work, self._first_documents)
        buckets = sorted_buckets(self._band_rows(), num_rows, self._work.path)
        self._drop(near_duplicates(buckets, shingle_sets, self._options.near_duplicates), NEAR)

    def _band_rows(self) -> Iterator[Rows]:
        for shard in self._shards:
            drop_codes = self._drop_codes_of(shard.number)
            first = int(self._first_documents[shard.number])
            with self._work.file(shard.number, "bands").open("rb") as file:
                start = 0
                for records in self._work.records(shard.number):
                    keys = np.fromfile(file, np.uint64, len(records) * NUM_BANDS).reshape(-1, NUM_BANDS)
                    kept = np.flatnonzero(drop_codes[start : start + len(records)] == KEPT)
                    yield make_rows(keys[kept].ravel(), 0, np.repeat(kept + first + start, NUM_BANDS))
                    start += len(records)

    def _drop(self, indices: Indices, drop_code: int) -> None:
        self._drop_codes[indices.astype(np.int64)] = drop_code
