"""Last stage of a build: the encoded shards become the corpus's folder, with its manifest and data card."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from fpm_cli.corpus.card import write_card
from fpm_cli.corpus.clean import CLEAN, defect_line
from fpm_cli.corpus.corpus import MANIFEST, TOKENIZER
from fpm_cli.corpus.deduplicate import DEDUPLICATED, DUPLICATE_DEFECTS
from fpm_cli.corpus.encode import ENCODED
from fpm_cli.corpus.indexed import token_dtype
from fpm_cli.corpus.inputs import NOT_UTF8, FoundInputs, Input
from fpm_cli.corpus.manifest import (
    SPLITS,
    Counts,
    InputFile,
    Manifest,
    Split,
    SplitFacts,
    TokenizerFacts,
)
from fpm_cli.corpus.merge import concatenate, merge_split
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.shards import Shard
from fpm_cli.corpus.work_folder import WorkFolder
from fpm_cli.files import atomic_write, hash_file
from fpm_cli.progress import StageReport, ignore_stage_report
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.lost_text import LostTextCounter

DEFECTS = "defects.jsonl"


def assemble(
    found: FoundInputs,
    shards: list[Shard],
    tokenizer: Tokenizer,
    options: BuildOptions,
    work: WorkFolder,
    out: Path,
    report: StageReport = ignore_stage_report,
) -> None:
    """Write the corpus into the folder `out`, replacing what an interrupted call has left there."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    numbers = [shard.number for shard in shards]
    encoded = [work.summary(number, ENCODED) for number in numbers]
    splits = {split: _add_up([summary["splits"][split] for summary in encoded]) for split in SPLITS}
    report("merge", 0, len(SPLITS))
    for done, split in enumerate(SPLITS, start=1):
        merge_split(split, splits[split], numbers, token_dtype(tokenizer.vocab_size), work, out)
        report("merge", done, len(SPLITS))
    with atomic_write(out / DEFECTS) as file:
        for skipped in found.skipped:
            if skipped.reason == NOT_UTF8:
                file.write(defect_line(skipped.name, 0, NOT_UTF8, skipped.detail))
        concatenate(
            [*(work.file(number, "defects") for number in numbers), work.path / DUPLICATE_DEFECTS], file
        )
    tokenizer.save(out / TOKENIZER)
    manifest = Manifest(
        source=options.source,
        inputs=tuple(_input_facts(file) for file in found.inputs),
        options=options.model_dump(mode="json", exclude={"source"}),
        tokenizer=TokenizerFacts(
            kind=tokenizer.kind, vocab_size=tokenizer.vocab_size, fingerprint=tokenizer.fingerprint
        ),
        counts=_counts(shards, splits, found, work),
        splits=splits,
        files={
            path.relative_to(out).as_posix(): hash_file(path)
            for path in sorted(out.rglob("*"))
            if path.is_file()
        },
        skipped=tuple(found.skipped),
    ).sealed()
    manifest.write(out / MANIFEST)
    write_card(out, manifest)


def _add_up(facts: list[dict[str, Any]]) -> SplitFacts:
    names = SplitFacts.model_fields.keys() - {"lost"}
    measured = [part["lost"] for part in facts if part.get("lost") is not None]
    lost = LostTextCounter()
    for document in measured:
        lost.merge(document)
    sums = {name: sum(part[name] for part in facts) for name in names}
    return SplitFacts(**sums, lost=lost.total() if measured else None)


def _input_facts(file: Input) -> InputFile:
    if file.path.is_file():
        return InputFile(name=file.name, **dict(hash_file(file.path)))
    return InputFile(name=file.name, bytes=0, xxh3_128="")


def _counts(
    shards: list[Shard], splits: dict[Split, SplitFacts], found: FoundInputs, work: WorkFolder
) -> Counts:
    summaries = [work.summary(shard.number, CLEAN) for shard in shards]
    deduplicated = json.loads((work.path / DEDUPLICATED).read_bytes())
    dropped, defects = Counter[str](deduplicated["dropped"]), Counter[str](deduplicated["defects"])
    repaired = Counter[str]()
    if not_utf8 := sum(file.reason == NOT_UTF8 for file in found.skipped):
        defects[NOT_UTF8] = not_utf8
    for summary, shard in zip(summaries, shards, strict=True):
        dropped.update(summary["dropped"])
        repaired.update(summary["repaired"])
        defects.update(summary["defects"])
        dropped.update(work.summary(shard.number, ENCODED)["dropped"])
    counts = Counts(
        documents_read=sum(summary["read"] for summary in summaries),
        documents_kept=sum(facts.documents for facts in splits.values()),
        dropped=dict(sorted(dropped.items())),
        repaired=dict(sorted(repaired.items())),
        defects=dict(sorted(defects.items())),
        bytes_in=sum(file.path.stat().st_size for file in found.inputs if file.path.is_file()),
    )
    assert counts.documents_read == counts.documents_kept + sum(dropped.values()), counts
    return counts
