"""Explains a corpus or a split that would have no document: what was dropped, and the likely remedy."""

import json
from collections import Counter

from fpm_cli.corpus.clean import CLEAN, FEW_SENTENCES
from fpm_cli.corpus.deduplicate import DEDUPLICATED
from fpm_cli.corpus.encode import ENCODED
from fpm_cli.corpus.manifest import SPLITS
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.records import BROKEN, NO_TEXT
from fpm_cli.corpus.shards import Shard
from fpm_cli.corpus.work_folder import WorkFolder


def too_few_documents(
    shards: list[Shard], duplicates: dict[str, int], options: BuildOptions, work: WorkFolder
) -> str:
    """The message for fewer than two documents where two splits need one each."""
    read, dropped, keys = _read_and_dropped(shards, duplicates, work)
    counts = f"{read - dropped.total():,} of {read:,} documents left{_reasons(dropped)}"
    if read == dropped.total():
        return f"no document for a corpus: {counts}; {_hint(dropped, keys, options)}"
    hint = _hint(dropped, keys, options)
    if options.source == "text" and options.document == "paragraph":
        hint = "a blank line ends a document: --document line makes a document of each line"
    return (
        f"the validation split, or the train split, would be empty: {counts}; {hint}; "
        "--validation-fraction 0 makes a train split alone"
    )


def empty_splits(shards: list[Shard], options: BuildOptions, work: WorkFolder) -> str:
    """The message for a split that has no document after encoding; empty if every split has one."""
    wanted = SPLITS if options.validation_fraction else SPLITS[:1]
    encoded = [work.summary(shard.number, ENCODED) for shard in shards]
    empty = [
        split for split in wanted if not sum(summary["splits"][split]["documents"] for summary in encoded)
    ]
    if not empty:
        return ""
    duplicates = json.loads((work.path / DEDUPLICATED).read_bytes())["dropped"]
    read, dropped, keys = _read_and_dropped(shards, duplicates, work)
    for summary in encoded:
        dropped.update(summary["dropped"])
    left = read - dropped.total()
    return (
        f"the {' and the '.join(empty)} split would be empty: {left:,} of {read:,} documents left"
        f"{_reasons(dropped)}; {_hint(dropped, keys, options)}"
    )


def _read_and_dropped(
    shards: list[Shard], duplicates: dict[str, int], work: WorkFolder
) -> tuple[int, Counter[str], Counter[str]]:
    read, dropped, keys = 0, Counter[str](duplicates), Counter[str]()
    for shard in shards:
        summary = work.summary(shard.number, CLEAN)
        read += summary["read"]
        dropped.update(summary["dropped"])
        keys.update(summary["keys"])
    return read, dropped, keys


def _reasons(dropped: Counter[str]) -> str:
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in dropped.most_common())
    return f" (dropped: {reasons})" if reasons else ""


def _hint(dropped: Counter[str], keys: Counter[str], options: BuildOptions) -> str:
    """What to change, going by the commonest reason."""
    reason = dropped.most_common(1)[0][0] if dropped else ""
    if reason == NO_TEXT:
        seen = "; ".join(names for names, _ in keys.most_common(3))
        array = " (a JSON array is read as source wudao)" if "a list" in seen else ""
        return f"no text in {options.text_field!r}, but seen were: {seen}{array}; --text-field names it"
    if reason == BROKEN:
        return "each line must be one JSON object; a JSON array is read as source wudao"
    if reason == FEW_SENTENCES:
        return "a BERT corpus needs documents of two sentences or more"
    return "give more text, or other filters"
