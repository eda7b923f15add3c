"""Reads inputs as streams of records: a document's text and place, or the defect that stands there."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from fpm_cli.errors import MissingError

COMPRESSED = (".gz", ".zst")
SUFFIXES = {"text": (".txt", ".md"), "jsonl": (".jsonl", ".json")}


@dataclass(frozen=True)
class Record:
    """One document, or one defect (`text` is None and `defect` says which), at a byte offset."""

    offset: int
    text: str | None
    defect: str | None = None


@dataclass(frozen=True)
class ReadOptions:
    """`text_field`: the JSON field that holds the text; `join_characters`: paragraphs of a text file
    are joined into documents of at least that many characters."""

    text_field: str = "text"
    join_characters: int = 0


def find_inputs(paths: list[Path], source: str) -> list[tuple[str, Path]]:
    """Return (name, file) for each input, folders searched, in a stable order.

    A name is relative to the folder that the user gave, so that it says nothing of the machine.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _readable(file, source))
            if not inside:
                raise MissingError(
                    f"{path}: no {' or '.join(SUFFIXES[source])} file (or .gz, .zst of one) in it"
                )
            found += [(file.relative_to(path).as_posix(), file) for file in inside]
        elif path.is_file():
            found.append((path.name, path))
        else:
            raise MissingError(f"{path} is not there")
    return found


def _readable(file: Path, source: str) -> bool:
    name = file.with_suffix("") if file.suffix in COMPRESSED else file
    return name.suffix in SUFFIXES[source]


def open_stream(path: Path) -> BinaryIO:
    """Open a plain, .gz or .zst file for reading its content."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import io

        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader), 1 << 20))
    return path.open("rb")


def read_text(stream: BinaryIO, options: ReadOptions) -> Iterator[Record]:
    """Documents of a plain text: a blank line, or the file's end, ends one."""
    offset = start = size = 0
    lines: list[str] = []
    for line in stream:
        text = line.decode(errors="replace")
        if text.strip():
            if not lines:
                start = offset
            lines.append(text)
            size += len(text)
        elif size >= options.join_characters and lines:
            yield Record(start, "".join(lines))
            lines, size = [], 0
        offset += len(line)
    if lines:
        yield Record(start, "".join(lines))


def read_jsonl(stream: BinaryIO, options: ReadOptions) -> Iterator[Record]:
    """Documents of a JSON-lines file, one object a line; blank lines are no documents."""
    offset = 0
    for line in stream:
        if line.strip():
            yield _parse(offset, line, options.text_field)
        offset += len(line)


def _parse(offset: int, line: bytes, field: str) -> Record:
    try:
        value = json.loads(line.decode(errors="replace"), strict=False)
    except (ValueError, RecursionError):
        return Record(offset, None, "broken_json")
    text = value.get(field) if isinstance(value, dict) else None
    return Record(offset, text) if isinstance(text, str) else Record(offset, None, "no_text_field")


READERS: dict[str, Callable[[BinaryIO, ReadOptions], Iterator[Record]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
}
