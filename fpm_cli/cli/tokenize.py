"""`fpm tokenize`: train or load one of the six tokenizers; text in, ids out, and back."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fpm_cli.cli.completion import complete_kind
from fpm_cli.cli.console import JsonFlag, log, show, show_json, stderr_console
from fpm_cli.cli.numbers import MAX_PROCESSES
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.encodings import check_encoding
from fpm_cli.errors import UsageError
from fpm_cli.progress_bars import StageProgress
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.bulk import TokenizerSource, encode_lines
from fpm_cli.tokenization.inspection import Piece, encoding_statistics, token_table
from fpm_cli.tokenization.registry import KINDS, PAPER_SIZES, check_kind, train_tokenizer
from fpm_cli.tokenization.store import check_output_is_new
from fpm_cli.tokenization.text_files import (
    STANDARD,
    DecodeErrors,
    OnDecodeError,
    join_lines,
    read_lines,
    write_text,
)

app = typer.Typer(help="Train, load and apply the six tokenizers.", no_args_is_help=True)

Inputs = Annotated[
    list[Path] | None, typer.Argument(help="Text files, .gz and .zst too; standard input without any, or -.")
]
TokenizerFolder = Annotated[Path | None, typer.Option("--tokenizer", help="A folder that `train` wrote.")]
Published = Annotated[
    Path | None, typer.Option(help="Published vocabulary instead: the file, or its folder; with --kind.")
]
KindOption = Annotated[
    str | None, typer.Option("--kind", help=f"One of {', '.join(KINDS)}.", autocompletion=complete_kind)
]
Errors = Annotated[OnDecodeError, typer.Option(help="At invalid bytes: stop, put U+FFFD, or skip the line.")]
Encoding = Annotated[
    str, typer.Option(help="How to read files that are not UTF-8: an encoding such as gb18030, or auto.")
]
Out = Annotated[Path, typer.Option(help="File to write, .gz and .zst too; - is standard output.")]


@app.command(
    epilog="Examples:\n\n  fpm tokenize train --kind gpt-zh --vocab-size 8000 news.txt --out tokens/zh\n\n"
    "  fpm tokenize train --kind bert-en books.txt.zst --out tokens/en --allow-smaller --json"
)
def train(
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.", autocompletion=complete_kind)],
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist.")],
    inputs: Inputs = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_COUNT, help="Entries, special tokens included; default: the paper's."),
    ] = None,
    allow_smaller: Annotated[
        bool, typer.Option("--allow-smaller", help="Take the largest size the text allows.")
    ] = False,
    whole_words: Annotated[
        bool, typer.Option("--whole-words", help="bert-zh: keep jieba's words together, as in WoBERT.")
    ] = False,
    errors: Errors = "strict",
    encoding: Encoding = "",
    as_json: JsonFlag = False,
) -> None:
    """Train a tokenizer on text, to exactly its size; the same text gives the same bytes."""
    checked = check_kind(kind)
    check_output_is_new(out)
    began = time.perf_counter()
    decode_errors = DecodeErrors()
    texts = join_lines(read_lines(inputs or [STANDARD], errors, decode_errors, _checked(encoding)))
    size = vocab_size or PAPER_SIZES[checked]
    with StageProgress("kB", stderr_console()) as progress:
        counted = _count_bytes(texts, _total_bytes(inputs), progress, f"training {checked}, {size:,} entries")
        tokenizer = train_tokenizer(checked, counted, size, allow_smaller, whole_words=whole_words)
    tokenizer.save(out)
    _report(decode_errors, errors)
    document = {**_describe(tokenizer), "out": str(out), "seconds": round(time.perf_counter() - began, 3)}
    if as_json:
        show_json("tokenize-train", document)
    else:
        show(f"{out}: {checked}, {tokenizer.vocab_size:,} entries, fingerprint {tokenizer.fingerprint[:12]}")


def _total_bytes(inputs: list[Path] | None) -> int | None:
    """The size of the text; None where it is not known before it is read."""
    if not inputs or any(path == STANDARD or path.suffix in (".gz", ".zst") for path in inputs):
        return None
    return sum(path.stat().st_size for path in inputs if path.is_file())


def _count_bytes(
    texts: Iterator[str], total: int | None, progress: StageProgress, then: str
) -> Iterator[str]:
    """The texts, with the amount read so far shown; at their end, what is done with them."""
    unit, size = ("kB", 1000) if total is None or total < 10_000_000 else ("MB", 1_000_000)
    num_bytes, whole = 0, None if total is None else -(-total // size)
    for text in texts:
        progress.update("reading", num_bytes // size, whole, unit)
        num_bytes += len(text.encode("utf-8", "surrogatepass"))
        yield text
    if whole is not None:
        progress.update("reading", whole, whole, unit)
    progress.update(then, num_bytes // size, None, unit)


@app.command(
    epilog="Examples:\n\n  fpm tokenize encode --tokenizer tokenizers/gpt-zh news.txt --out news.ids.zst\n\n"
    "  echo 你好 | fpm tokenize encode --published chinese_vocab.model --kind gpt-zh --json"
)
def encode(
    inputs: Inputs = None,
    tokenizer: TokenizerFolder = None,
    published: Published = None,
    kind: KindOption = None,
    out: Out = STANDARD,
    workers: Annotated[int, typer.Option(min=1, max=MAX_PROCESSES, help="Processes that encode.")] = 1,
    errors: Errors = "strict",
    encoding: Encoding = "",
    as_json: Annotated[
        bool, typer.Option("--json", help='One object a line: {"ids": [...], "tokens": [...]}.')
    ] = False,
) -> None:
    """Encode text line by line: a line of ids for each line of text."""
    source = _source(tokenizer, published, kind)
    decode_errors = DecodeErrors()
    lines = read_lines(inputs or [STANDARD], errors, decode_errors, _checked(encoding))
    with write_text(out) as file:
        for encoded in encode_lines(source, lines, as_json, workers):
            file.write(encoded)
    _report(decode_errors, errors)


@app.command(
    epilog="Examples:\n\n  fpm tokenize decode --tokenizer tokenizers/gpt-zh news.ids.zst\n\n"
    "  echo 15496 995 | fpm tokenize decode --published gpt2/ --kind gpt-en"
)
def decode(
    inputs: Inputs = None,
    tokenizer: TokenizerFolder = None,
    published: Published = None,
    kind: KindOption = None,
    out: Out = STANDARD,
    as_json: Annotated[bool, typer.Option("--json", help='One object a line: {"text": ...}.')] = False,
) -> None:
    """Decode lines of ids, as `encode` writes them (numbers or JSON), to lines of text."""
    loaded = _source(tokenizer, published, kind).load()
    with write_text(out) as file:
        for number, line in enumerate(read_lines(inputs or [STANDARD], "strict", DecodeErrors()), start=1):
            text = loaded.decode(_parse_ids(line, number))
            file.write((json.dumps({"text": text}, ensure_ascii=False) if as_json else text) + "\n")


@app.command(
    epilog="Examples:\n\n  fpm tokenize inspect --tokenizer tokenizers/gpt-zh --text 今天天气很好\n\n"
    "  fpm tokenize inspect --published vocab.txt --kind bert-en news.txt --json"
)
def inspect(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Text files, .gz and .zst too; - is standard input.")
    ] = None,
    tokenizer: TokenizerFolder = None,
    published: Published = None,
    kind: KindOption = None,
    text: Annotated[str | None, typer.Option(help="The text itself, in place of files.")] = None,
    rows: Annotated[int, typer.Option(min=0, max=MAX_COUNT, help="Pieces to show, of the first text.")] = 40,
    errors: Errors = "strict",
    encoding: Encoding = "",
    as_json: JsonFlag = False,
) -> None:
    """Show the pieces of a text, and over all lines the rates; without any text, the tokenizer itself."""
    loaded = _source(tokenizer, published, kind).load()
    document = _describe(loaded)
    pieces: list[Piece] = []
    if inputs or text is not None:
        decode_errors = DecodeErrors()
        lines = (
            iter([text])
            if text is not None
            else read_lines(inputs or [STANDARD], errors, decode_errors, _checked(encoding))
        )
        first = next(lines, "")
        pieces = token_table(loaded, first)
        document |= encoding_statistics(loaded, _again(first, lines)).document()
        _report(decode_errors, errors)
    if as_json:
        show_json("tokenize-inspect", {**document, "pieces": [vars(piece) for piece in pieces[:rows]]})
        return
    if pieces:
        table = Table("piece", "id", "characters", "text", "word")
        for piece in pieces[:rows]:
            span = f"{piece.begin}-{piece.end}"
            start = "*" if piece.word_start else ""
            table.add_row(Text(piece.piece), str(piece.id), span, Text(repr(piece.text)[1:-1]), start)
        show(table)
    table = Table(show_header=False)
    for key, value in document.items():
        table.add_row(key.replace("_", " "), _readable(value))
    show(table)


@app.command(
    "import",
    epilog="Examples:\n\n  fpm tokenize import --published gpt2/ --kind gpt-en --out tokenizers/gpt2\n\n"
    "  fpm tokenize import --published chinese_vocab.model --kind gpt-zh --out tokenizers/cpm --json",
)
def import_published(
    published: Annotated[Path, typer.Option(help="The published file, or its folder.")],
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(KINDS)}.", autocompletion=complete_kind)],
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist.")],
    as_json: JsonFlag = False,
) -> None:
    """Write a published vocabulary as a tokenizer folder, which the other verbs take."""
    check_output_is_new(out)
    loaded = _source(None, published, kind).load()
    loaded.save(out)
    if as_json:
        show_json("tokenize-import", {**_describe(loaded), "out": str(out)})
    else:
        show(f"{out}: {loaded.kind}, {loaded.vocab_size:,} entries, fingerprint {loaded.fingerprint[:12]}")


def _source(folder: Path | None, published: Path | None, kind: str | None) -> TokenizerSource:
    if (folder is None) == (published is None):
        raise UsageError("give either --tokenizer FOLDER or --published PATH with --kind")
    if published is not None:
        if kind is None:
            raise UsageError(f"--published needs --kind ({', '.join(KINDS)})")
        return TokenizerSource(published, check_kind(kind))
    assert folder is not None
    return TokenizerSource(folder)


def _checked(encoding: str) -> str:
    return check_encoding(encoding) if encoding else ""


def _describe(tokenizer: Tokenizer) -> dict[str, Any]:
    special = dataclasses.asdict(tokenizer.special)
    sentinels = special.pop("sentinels")
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "special": {name: i for name, i in special.items() if i is not None},
        "sentinels": len(sentinels),
        "hf_tokenizer_json": "exact" if tokenizer.hf_inexact is None else f"none: {tokenizer.hf_inexact}",
    }


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {i}" for name, i in value.items())
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _report(decode_errors: DecodeErrors, errors: OnDecodeError) -> None:
    if decode_errors.lines:
        done = "replaced" if errors == "replace" else "skipped, with"
        log(f"not UTF-8: {decode_errors.lines:,} lines {done} {decode_errors.sequences:,} bad byte sequences")


def _parse_ids(line: str, number: int) -> list[int]:
    try:
        if line.lstrip().startswith(("{", "[")):
            parsed = json.loads(line)
            ids = parsed["ids"] if isinstance(parsed, dict) else parsed
            if not all(type(i) is int for i in ids):
                raise ValueError
            return list(ids)
        return [int(word) for word in line.split()]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"line {number} is neither numbers nor JSON with ids: {line[:60]!r}") from None


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
