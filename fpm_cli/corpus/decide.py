"""Between the two halves of the pipeline: which clean documents are duplicates, and which are held out.

The only step that sees all shards. It leaves, for each shard, one byte a document (0: kept), and one
decision for all; run again on the same clean shards it gives the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.clean import CLEAN, defect_line
from fpm_cli.corpus.duplicates import Indices, Rows, Texts, buckets, make_rows, near_duplicates, repeats
from fpm_cli.corpus.files import atomic_write
from fpm_cli.corpus.near import NUM_BANDS
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.shards import Shard
from fpm_cli.corpus.work import Records, WorkFolder, write_json
from fpm_cli.errors import MissingError

DECISION, LOCATED = "decision.json", "duplicates.defects"
REASONS = ("", "duplicate_id", "exact_duplicate", "beyond_responses", "near_duplicate")
KEPT, ID, EXACT, BEYOND, NEAR = range(len(REASONS))

# (shard, number within the shard of the first, records): a chunk of a cleaned shard
Chunk = tuple[int, int, Records]


class Decider:
    """Holds one byte a document, and the buckets on disk while a kind of duplicate is looked for."""

    def __init__(self, shards: list[Shard], options: BuildOptions, work: WorkFolder) -> None:
        self._shards, self._options, self._work = shards, options, work
        sizes = [work.summary(shard.number, CLEAN)["kept"] for shard in shards]
        self._bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._verdicts = np.zeros(self._bases[-1], dtype=np.uint8)

    def decide(self) -> None:
        """Write every shard's `drops` and the build's decision."""
        self._drop_repeats(ID, lambda records: (records["id"], 0, records["id"] != 0))
        self._drop_repeats(EXACT, lambda records: (records["digest_low"], records["digest_high"], None))
        if self._options.max_responses:
            limit = self._options.max_responses
            self._drop_repeats(BEYOND, lambda records: (records["group"], 0, records["group"] != 0), limit)
        if self._options.near_duplicates:
            self._drop_near()
        for shard in self._shards:
            with atomic_write(self._work.file(shard.number, "drops")) as file:
                file.write(self._verdicts_of(shard.number).tobytes())
        decision = {
            "dropped": self._count(),
            "defects": self._locate_ids(),
            "validation_bound": self._validation_bound(),
        }
        write_json(self._work.path / DECISION, decision)

    def _count(self) -> dict[str, int]:
        counts = np.bincount(self._verdicts, minlength=len(REASONS)).tolist()
        return {reason: counts[code] for code, reason in enumerate(REASONS) if code and counts[code]}

    def _verdicts_of(self, number: int) -> npt.NDArray[np.uint8]:
        return self._verdicts[self._bases[number] : self._bases[number + 1]]

    def _chunks(self) -> Iterator[Chunk]:
        for shard in self._shards:
            start = 0
            for records in self._work.records(shard.number):
                yield shard.number, start, records
                start += len(records)

    def _rows(self, keys: Callable[[Records], tuple[Any, Any, Any]]) -> Iterator[Rows]:
        """Rows of the documents that are kept so far; `keys` gives key, check and an optional mask."""
        for number, start, records in self._chunks():
            first = int(self._bases[number]) + start
            chosen = self._verdicts[first : first + len(records)] == KEPT
            key, check, mask = keys(records)
            if mask is not None:
                chosen &= mask
            if chosen.any():
                check = check if isinstance(check, int) else check[chosen]
                yield make_rows(key[chosen], check, np.flatnonzero(chosen) + first)

    def _drop_repeats(
        self, verdict: int, keys: Callable[[Records], tuple[Any, Any, Any]], allowed: int = 1
    ) -> None:
        rows = self._rows(keys)
        for bucket in buckets(rows, len(self._verdicts), self._work.path):
            self._drop(repeats(bucket, allowed), verdict)

    def _drop_near(self) -> None:
        num_rows = int((self._verdicts == KEPT).sum()) * NUM_BANDS
        texts = Texts(self._work, self._bases)
        sorted_buckets = buckets(self._band_rows(), num_rows, self._work.path)
        self._drop(near_duplicates(sorted_buckets, texts, self._options.near_duplicates), NEAR)

    def _band_rows(self) -> Iterator[Rows]:
        for shard in self._shards:
            verdicts = self._verdicts_of(shard.number)
            first = int(self._bases[shard.number])
            with self._work.file(shard.number, "bands").open("rb") as file:
                start = 0
                for records in self._work.records(shard.number):
                    keys = np.fromfile(file, np.uint64, len(records) * NUM_BANDS).reshape(-1, NUM_BANDS)
                    kept = np.flatnonzero(verdicts[start : start + len(records)] == KEPT)
                    yield make_rows(keys[kept].ravel(), 0, np.repeat(kept + first + start, NUM_BANDS))
                    start += len(records)

    def _drop(self, indices: Indices, verdict: int) -> None:
        self._verdicts[indices.astype(np.int64)] = verdict

    def _locate_ids(self) -> dict[str, int]:
        """Write where the repeated ids stand."""
        count = 0
        with atomic_write(self._work.path / LOCATED) as file:
            for number, start, records in self._chunks():
                verdicts = self._verdicts_of(number)[start : start + len(records)]
                for record in records[verdicts == ID]:
                    count += 1
                    name = self._shards[number].input.name
                    file.write(defect_line(name, int(record["offset"]), REASONS[ID], ""))
        return {REASONS[ID]: count} if count else {}

    def _validation_bound(self) -> int:
        """Digests below the bound are held out: the asked fraction, but never none and never all."""
        if not self._options.validation_fraction:
            return 0
        least, most, count = 2**64, -1, 0
        for number, start, records in self._chunks():
            verdicts = self._verdicts_of(number)[start : start + len(records)]
            digests = records["digest_high"][verdicts == KEPT]
            if len(digests):
                least, most = min(least, int(digests.min())), max(most, int(digests.max()))
                count += len(digests)
        if count < 2:
            raise MissingError(self._nothing_left(count))
        return min(max(int(self._options.validation_fraction * 2**64), least + 1), most)

    def _nothing_left(self, count: int) -> str:
        dropped: Counter[str] = Counter(self._count())
        read = 0
        for shard in self._shards:
            summary = self._work.summary(shard.number, CLEAN)
            dropped.update(summary["dropped"])
            read += summary["read"]
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(dropped.items()))
        return (
            f"{count} of {read:,} documents left, and two splits need two"
            f"{f' (dropped: {reasons})' if reasons else ''}; give more text, or other filters"
        )
