"""`fpm build-corpus`: raw text in, an indexed corpus with its tokenizer and manifest out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from fpm_cli.cli.completion import complete_source
from fpm_cli.cli.console import JsonFlag, log, show, show_json, stderr_console
from fpm_cli.cli.numbers import MAX_PROCESSES
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.corpus.options import SOURCES, Source, build_options
from fpm_cli.errors import UsageError, did_you_mean
from fpm_cli.progress_bars import StageProgress

EXAMPLES = (
    "Examples:\n\n  fpm build-corpus text books/ --tokenizer tokenizers/gpt-en --out corpora/books\n\n"
    "  fpm build-corpus wudao wudao/ --tokenizer tokenizers/bert-zh --out corpora/wudao --workers 2 --json"
)

STAGES = {  # of `build_corpus`: its name here, and what is counted
    "unpack": ("unpacking", "shards"),
    "clean": ("reading and filtering", "shards"),
    "duplicates": ("finding duplicates", "passes"),
    "encode": ("tokenising", "shards"),
    "merge": ("writing the indexed files", "splits"),
}

Inputs = Annotated[
    list[Path],
    typer.Argument(help="Files or folders, also .gz and .zst; hf: saved or cached data sets."),
]


def build_corpus(
    source: Annotated[
        str,
        typer.Argument(help=f"What the inputs are: {', '.join(SOURCES)}.", autocompletion=complete_source),
    ],
    inputs: Inputs,
    tokenizer: Annotated[Path, typer.Option(help="A tokenizer's folder (`fpm tokenize train`).")],
    out: Annotated[Path, typer.Option(help="The corpus's folder; must not exist yet.")],
    filters: Annotated[
        Literal["paper", "none"], typer.Option(help="The paper's choices for this source, or none.")
    ] = "paper",
    validation_fraction: Annotated[
        float | None,
        typer.Option(min=0, max=0.5, help="Share of documents held out, by hash. [0.01]"),
    ] = None,
    min_characters: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Drop shorter documents. [1]")
    ] = None,
    max_characters: Annotated[
        int | None, typer.Option(min=0, max=MAX_COUNT, help="Drop longer ones; 0: none. [0]")
    ] = None,
    min_density: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least share of letters and digits. [wudao: 0.7]"),
    ] = None,
    max_repetition: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest share of repeated lines; 0: any. [0]"),
    ] = None,
    language: Annotated[Literal["en", "zh"] | None, typer.Option(help="Drop the other language.")] = None,
    near_duplicates: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Jaccard similarity; 0: keep all. [0.8; stc: 0]"),
    ] = None,
    pile_partitions: Annotated[
        str | None, typer.Option(help="pile: files of a folder to read. [02,03,04,17]")
    ] = None,
    exclude_sets: Annotated[
        str | None, typer.Option(help="pile: sets to drop. [StackExchange,Github]")
    ] = None,
    max_responses: Annotated[
        int | None, typer.Option(min=0, max=MAX_COUNT, help="stc: responses kept of a post; 0: all. [30]")
    ] = None,
    text_field: Annotated[str | None, typer.Option(help="The JSON field with the text. [text]")] = None,
    id_field: Annotated[
        str | None,
        typer.Option(help="Drop a document whose id in this field was seen before. [wudao: uniqueKey]"),
    ] = None,
    document: Annotated[
        Literal["paragraph", "line", "file"] | None,
        typer.Option(help="text: what one document is. [paragraph]"),
    ] = None,
    hf_splits: Annotated[
        str | None, typer.Option(help="hf: splits to read, as train,validation or all. [train]")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Read files that are not UTF-8 so: gb18030, big5, utf-16 ..., or auto. [skipped]"),
    ] = None,
    max_invalid: Annotated[
        float | None, typer.Option(min=0, max=1, help="Drop a document with more invalid characters. [0.01]")
    ] = None,
    join_characters: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_COUNT, help="text: join paragraphs up to this number of characters. [0]"),
    ] = None,
    max_document_bytes: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Skip longer lines and records. [32 MiB]")
    ] = None,
    max_expansion: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_COUNT, help="Cut an archive that expands more, past 64 MiB. [250]"),
    ] = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option(help="TASK=FILE: drop documents that contain a text of the task's file; repeatable."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=MAX_PROCESSES, help="Processes; 0: one per core.")] = 0,
    executor: Annotated[Literal["local", "ray"], typer.Option(help="ray: a Ray cluster.")] = "local",
    shard_mib: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="Size of the shards of plain files.")
    ] = 64,
    as_json: JsonFlag = False,
) -> None:
    """Read, clean, deduplicate and tokenise text into Megatron-LM's indexed format.

    Stopped at any moment, the same command resumes from the finished shards and gives the same bytes.
    """
    options = build_options(
        _source(source),
        filters,
        validation_fraction=validation_fraction,
        min_characters=min_characters,
        max_characters=max_characters,
        min_density=min_density,
        max_repetition=max_repetition,
        language=language,
        near_duplicates=near_duplicates,
        pile_partitions=_names(pile_partitions),
        exclude_sets=_names(exclude_sets),
        max_responses=max_responses,
        text_field=text_field,
        id_field=id_field,
        document=document,
        hf_splits=_names(hf_splits),
        encoding=encoding,
        max_invalid=max_invalid,
        join_characters=join_characters,
        max_document_bytes=max_document_bytes,
        max_expansion=max_expansion,
    )
    from fpm_cli.corpus import build
    from fpm_cli.corpus.inputs import describe_skipped
    from fpm_cli.tokenization.registry import load_tokenizer

    texts = [text for request in decontaminate or [] for text in _evaluation_texts(request)]
    with StageProgress("shards", stderr_console()) as progress:

        def report(stage: str, done: int, total: int) -> None:
            name, unit = STAGES[stage]
            progress.update(name, done, total, unit)

        execution = build.Execution(
            workers=workers or _num_cores(),
            executor=executor,
            shard_bytes=shard_mib << 20,
            report=report,
        )
        built = build.build_corpus(inputs, load_tokenizer(tokenizer), out, options, execution, texts)
    manifest = built.corpus.manifest
    counts = manifest.counts
    tokens = sum(facts.tokens for facts in manifest.splits.values())
    if as_json:
        result: dict[str, Any] = {
            "out": str(out),
            **counts.model_dump(),
            "tokens": tokens,
            "skipped": [file.model_dump() for file in manifest.skipped],
            "splits": {name: facts.model_dump() for name, facts in manifest.splits.items()},
            "seconds": round(built.seconds, 3),
            "fingerprint": manifest.fingerprint,
        }
        show_json("build-corpus", result)
        return
    table = Table("split", "documents", "sequences", "tokens")
    for name, facts in manifest.splits.items():
        table.add_row(name, f"{facts.documents:,}", f"{facts.sequences:,}", f"{facts.tokens:,}")
    show(table)
    steps = {"dropped": counts.dropped, "repaired": counts.repaired, "defects": counts.defects}
    for step, reasons in steps.items():
        if reasons:
            log(f"{step}: {', '.join(f'{reason} {count:,}' for reason, count in reasons.items())}")
    if manifest.skipped:
        log(f"not read: {describe_skipped(manifest.skipped)}")
    log(f"read {counts.documents_read:,} documents, kept {counts.documents_kept:,}: {tokens:,} tokens")
    log(f"{out} in {built.seconds:.1f} s")


def _evaluation_texts(request: str) -> Iterator[str]:
    """The texts of a task's rows, given `TASK=FILE`."""
    from fpm_cli.tasks.definition import load_task
    from fpm_cli.tasks.examples import read_examples

    task, separator, path = request.partition("=")
    if not separator:
        raise UsageError(f"--decontaminate {request}: give a task and its file, such as qqp=dev.tsv")
    for example in read_examples(load_task(task), path, labels="optional").examples:
        yield from example.texts


def _num_cores() -> int:
    """The cores that this process may use; macOS has no affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _source(name: str) -> Source:
    for source in SOURCES:
        if source == name:
            return source
    raise UsageError(f"SOURCE {name!r} is not one of {', '.join(SOURCES)}{did_you_mean(name, SOURCES)}")


def _names(listed: str | None) -> tuple[str, ...] | None:
    """A comma-separated list; `none` and `all` are the empty one."""
    if listed is None:
        return None
    return () if listed in ("none", "all") else tuple(name.strip() for name in listed.split(","))
