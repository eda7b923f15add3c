"""`fpm build-corpus`: raw text in, an indexed corpus with its tokenizer and manifest out."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fpm_cli.cli.console import JsonFlag, log, show, show_json
from fpm_cli.errors import UsageError, did_you_mean

SOURCES = ("text", "jsonl")
EXAMPLES = (
    "Examples:\n\n  fpm build-corpus text books/ --tokenizer tokenizers/gpt-en --out corpora/books\n\n"
    "  fpm build-corpus jsonl news.jsonl.zst --tokenizer tokenizers/bert-zh --out corpora/news --json"
)


def build_corpus(
    source: Annotated[str, typer.Argument(help=f"What the inputs are: {', '.join(SOURCES)}.")],
    inputs: Annotated[
        list[Path], typer.Argument(help="Files or folders; .gz and .zst are read as they are.")
    ],
    tokenizer: Annotated[Path, typer.Option(help="A tokenizer's folder (`fpm tokenize train`).")],
    out: Annotated[Path, typer.Option(help="The corpus's folder; must not exist yet.")],
    validation_fraction: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of documents held out, chosen by their hash.")
    ] = 0.01,
    min_characters: Annotated[int, typer.Option(min=1, help="Shorter documents are dropped.")] = 1,
    text_field: Annotated[str, typer.Option(help="jsonl: the field that holds the text.")] = "text",
    join_characters: Annotated[
        int, typer.Option(min=0, help="text: join paragraphs into documents of at least so many characters.")
    ] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Read, clean, deduplicate and tokenise text into Megatron-LM's indexed format."""
    if source not in SOURCES:
        raise UsageError(
            f"SOURCE {source!r} is not one of {', '.join(SOURCES)}{did_you_mean(source, SOURCES)}"
        )
    from fpm_cli.corpus import build
    from fpm_cli.corpus.reading import ReadOptions
    from fpm_cli.tokenization.base import load_tokenizer

    options = build.BuildOptions(
        source=source,
        validation_fraction=validation_fraction,
        min_characters=min_characters,
        reading=ReadOptions(text_field=text_field, join_characters=join_characters),
    )
    built = build.build_corpus(inputs, load_tokenizer(tokenizer), out, options)
    manifest = built.corpus.manifest
    result: dict[str, Any] = {
        "out": str(out),
        **manifest.counts.model_dump(),
        "tokens": sum(facts.tokens for facts in manifest.splits.values()),
        "splits": {name: facts.model_dump() for name, facts in manifest.splits.items()},
        "seconds": round(built.seconds, 3),
        "fingerprint": manifest.fingerprint,
    }
    if as_json:
        show_json("build-corpus", result)
        return
    table = Table("split", "documents", "sequences", "tokens")
    for name, facts in manifest.splits.items():
        table.add_row(name, f"{facts.documents:,}", f"{facts.sequences:,}", f"{facts.tokens:,}")
    show(table)
    for reason, count in (*manifest.counts.dropped.items(), *manifest.counts.repaired.items()):
        log(f"{'dropped' if reason in manifest.counts.dropped else 'repaired'} {count:,}: {reason}")
    log(
        f"{out}: {result['tokens']:,} tokens of {result['documents_kept']:,} documents, {built.seconds:.1f} s"
    )
