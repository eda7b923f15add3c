"""The data card of a corpus: its manifest, for people to read."""

from pathlib import Path

from fpm_cli.corpus.manifest import Manifest
from fpm_cli.files import atomic_write

CARD = "README.md"


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write the Markdown card next to the manifest. It follows from the manifest, which does not list it."""
    with atomic_write(folder / CARD) as file:
        file.write(data_card(manifest).encode())


def data_card(manifest: Manifest) -> str:
    """Sources, steps with their counts, splits, options and checksums as Markdown."""
    counts = manifest.counts
    dropped = [(f"dropped: {reason}", number) for reason, number in counts.dropped.items()]
    repaired = [(f"kept, repaired: {reason}", number) for reason, number in counts.repaired.items()]
    steps = [("read", counts.documents_read), *dropped, ("kept", counts.documents_kept), *repaired]
    tokenizer = manifest.tokenizer
    return "\n".join(
        [
            f"# Corpus {manifest.fingerprint}",
            "",
            f"Built by `fpm build-corpus {manifest.source}` for tokenizer `{tokenizer.kind}` of "
            f"{tokenizer.vocab_size:,} entries (`{tokenizer.fingerprint[:16]}`). "
            "Indexed files in Megatron-LM's format; `manifest.json` holds all of this for programs.",
            "",
            "## Splits",
            "| split | documents | sequences | tokens | bytes of text | characters |",
            "|---|---|---|---|---|---|",
            *(
                f"| {name} | {facts.documents:,} | {facts.sequences:,} | {facts.tokens:,} "
                f"| {facts.text_bytes:,} | {facts.text_characters:,} |"
                for name, facts in manifest.splits.items()
            ),
            "",
            "## Documents",
            "| step | documents |",
            "|---|---|",
            *(f"| {step} | {number:,} |" for step, number in steps),
            "",
            f"Defects of the input, each with its place in `defects.jsonl`: "
            f"{', '.join(f'{reason} {number:,}' for reason, number in counts.defects.items()) or 'none'}.",
            "",
            "## Inputs",
            "| input | bytes | xxh3-128 |",
            "|---|---|---|",
            *(f"| {file.name} | {file.bytes:,} | {file.xxh3_128} |" for file in manifest.inputs),
            "",
            *_skipped(manifest),
            "## Options",
            *(f"- {name}: {value!r}" for name, value in manifest.options.items()),
            "",
        ]
    )


def _skipped(manifest: Manifest) -> list[str]:
    if not manifest.skipped:
        return []
    rows = (
        f"| {file.name} | {file.reason}{f' ({file.detail})' if file.detail else ''} |"
        for file in manifest.skipped
    )
    return ["## Not read", "| name | reason |", "|---|---|", *rows, ""]
