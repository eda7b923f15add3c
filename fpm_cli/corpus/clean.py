"""First half of the pipeline, one shard at a time: read -> normalise -> filter -> sentences -> hashes.

A pure function of the shard and the options. The text that is kept goes to disk, with one record of fixed
size per document, from which duplicates are found over all shards (`deduplicate.py`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

import xxhash

from fpm_cli.corpus.contamination import EvaluationIndex
from fpm_cli.corpus.filters import drop_reason
from fpm_cli.corpus.hf import read_rows
from fpm_cli.corpus.minhash import band_keys
from fpm_cli.corpus.normalise import REPLACEMENT, SURROGATE, normalise
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.readers import READERS
from fpm_cli.corpus.records import BROKEN, NO_TEXT, OVERSIZED, Record
from fpm_cli.corpus.sentences import split_sentences
from fpm_cli.corpus.shards import Shard
from fpm_cli.corpus.work_folder import WorkFolder, pack_document_record
from fpm_cli.files import atomic_write
from fpm_cli.streams import open_range

CLEAN, EVALUATION_INDEX = "clean", "evaluation.npz"  # files of the work folder
INVALID, TOO_INVALID = "invalid_utf8", "too_many_invalid_characters"
FEW_SENTENCES, CONTAMINATED = "fewer_than_two_sentences", "contaminated"
DEFECTS = (BROKEN, NO_TEXT, OVERSIZED, TOO_INVALID)  # reasons that are damage of the input, hence located
MAX_KEYS = 16  # different sets of keys that are counted
BATCH_BYTES = 1 << 18  # text whose shingles are hashed at once

# Called with a defect: its reason, its offset in the input, and a detail.
ReportDefect = Callable[[str, int, str], None]


@dataclass(frozen=True)
class CleanTask:
    """A shard to clean, and the folder for the result."""

    shard: Shard
    options: BuildOptions
    sentences: bool
    work: WorkFolder


@dataclass
class _Counts:
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)  # of records without the text field


def clean_shard(task: CleanTask) -> None:
    """Clean one shard; its text, records, hashes and defects are on disk when its summary is."""
    shard, options, work = task.shard, task.options, task.work
    counts = _Counts()
    with ExitStack() as stack:
        text, records, bands, defects = (
            stack.enter_context(atomic_write(work.file(shard.number, kind), sync_name=False))
            for kind in ("text", "records", "bands", "defects")
        )

        def report_defect(reason: str, offset: int, detail: str) -> None:
            counts.defects[reason] += 1
            defects.write(defect_line(shard.input.name, offset, reason, detail))

        writer = _DocumentWriter(text, records, bands, options)
        for record in _read(shard, options):
            counts.read += 1
            clean, reason = _clean(record, task, counts.repaired, report_defect)
            if reason:
                counts.dropped[reason] += 1
                if record.keys and (record.keys in counts.keys or len(counts.keys) < MAX_KEYS):
                    counts.keys[record.keys] += 1
                if reason in DEFECTS:
                    report_defect(reason, shard.start + record.offset, "")
            else:
                counts.kept += 1
                writer.add(clean, shard.start + record.offset, record)
        writer.flush()
        if shard.defect:
            report_defect(shard.defect.reason, shard.defect.offset, shard.defect.detail)
        elif shard.is_only and not counts.read:
            report_defect("empty_file", 0, "")
    work.finish(shard.number, CLEAN, vars(counts))
    if shard.path != shard.input.path:
        shard.path.unlink(missing_ok=True)  # the unpacked part of an archive


def defect_line(name: str, offset: int, reason: str, detail: str) -> bytes:
    """One line of `defects.jsonl`: what is wrong with an input, and at which byte of its content."""
    entry = {"input": name, "offset": offset, "reason": reason}
    return (json.dumps(entry | ({"detail": detail} if detail else {}), ensure_ascii=False) + "\n").encode()


def _read(shard: Shard, options: BuildOptions) -> Iterator[Record]:
    if options.source == "hf":
        yield from read_rows(shard, options)
        return
    first = shard.start - shard.base
    with open_range(shard.path, first, first + shard.end - shard.start) as stream:
        yield from READERS[options.source](stream, options)


def _clean(
    record: Record, task: CleanTask, repaired: Counter[str], report_defect: ReportDefect
) -> tuple[str, str | None]:
    """The text to keep, or an empty one and the reason to drop the document."""
    if record.text is None:
        return "", record.reason
    start = task.shard.start
    text, removed = normalise(record.text)
    num_invalid = record.num_invalid + removed[REPLACEMENT] + removed[SURROGATE]
    if task.options.max_invalid and num_invalid > max(1, task.options.max_invalid * len(text)):
        return "", TOO_INVALID
    if record.invalid_at is not None:
        repaired[INVALID] += 1
        report_defect(INVALID, start + record.invalid_at, "")
    for kind in removed:
        repaired[kind] += 1
        report_defect(kind, start + record.offset, f"{removed[kind]} removed")
    reason = drop_reason(text, task.options)
    if not reason and task.options.contamination and _evaluation_index(task.work).is_in(text):
        reason = CONTAMINATED
    if reason or not task.sentences:
        return text, reason
    sentences = split_sentences(text)
    return "\n".join(sentences), FEW_SENTENCES if len(sentences) < 2 else None


@lru_cache(maxsize=1)
def _evaluation_index(work: WorkFolder) -> EvaluationIndex:
    return EvaluationIndex.read(work.path / EVALUATION_INDEX)


class _DocumentWriter:
    """Appends clean documents to the shard's files; shingles are hashed in batches of documents."""

    def __init__(self, text: BinaryIO, records: BinaryIO, bands: BinaryIO, options: BuildOptions) -> None:
        self._text, self._records, self._bands = text, records, bands
        self._find_near = options.near_duplicates > 0
        self._batch: list[bytes] = []
        self._batch_bytes = self._text_start = 0

    def add(self, text: str, offset: int, record: Record) -> None:
        content = text.encode()
        digest = xxhash.xxh3_128_intdigest(content)
        row = pack_document_record(
            *(self._text_start, len(content), offset),
            *(digest >> 64, digest & 0xFFFFFFFFFFFFFFFF),
            *(_hash(record.id), _hash(record.group)),
        )
        self._records.write(row)
        self._text.write(content)
        self._text_start += len(content)
        if self._find_near:
            self._batch.append(content)
            self._batch_bytes += len(content)
            if self._batch_bytes >= BATCH_BYTES:
                self.flush()

    def flush(self) -> None:
        self._bands.write(band_keys(self._batch).tobytes())
        self._batch, self._batch_bytes = [], 0


def _hash(name: str) -> int:
    """A 64-bit hash, 0 for no name."""
    return xxhash.xxh3_64_intdigest(name.encode(errors="surrogatepass")) if name else 0
