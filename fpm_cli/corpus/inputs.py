"""Finds the inputs and cuts them into shards, each of which can be read without the others."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fpm_cli.corpus.options import MIB, BuildOptions
from fpm_cli.corpus.streams import COMPRESSED
from fpm_cli.errors import MissingError

SUFFIXES = {
    "text": (".txt", ".md"),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "pile": (".jsonl",),
    "wudao": (".json", ".jsonl"),
    "stc": (".tsv", ".txt", ".json", ".jsonl"),
}
NOT_DATA = ("SOURCE.txt", "LICENSE.txt", "README.txt", "README.md")
_PARTITION = re.compile(r"(\d\d)\.jsonl")


@dataclass(frozen=True)
class Input:
    """A file, or a data set's split, and its name within what the user gave."""

    name: str
    path: Path
    size: int  # bytes; rows of an `hf` data set


@dataclass(frozen=True)
class Shard:
    """A part of one input: its bytes (or an `hf` data set's rows) from `start` up to `end`."""

    number: int
    input: Input
    start: int
    end: int


def find_inputs(paths: list[Path], options: BuildOptions) -> list[Input]:
    """The files given, and those in the folders given, in a stable order.

    A name is relative to the folder that the user gave, so that it says nothing of the machine.
    Raises MissingError for a path that is absent and a folder with no file of the source's kind.
    """
    if options.source == "hf":
        from fpm_cli.corpus.hf import find_datasets

        return find_datasets(paths)
    found: list[Input] = []
    for path in paths:
        if path.is_dir():
            found += _in_folder(path, options)
        elif path.is_file():
            found.append(Input(path.name, path, path.stat().st_size))
        else:
            raise MissingError(f"{path} is not there")
    return found


def _in_folder(folder: Path, options: BuildOptions) -> list[Input]:
    suffixes = SUFFIXES[options.source]
    inside = [
        Input(file.relative_to(folder).as_posix(), file, file.stat().st_size)
        for file in sorted(folder.rglob("*"))
        if _plain_name(file).endswith(suffixes) and file.name not in NOT_DATA and file.is_file()
    ]
    if not inside:
        raise MissingError(f"{folder}: no {' or '.join(suffixes)} file in it, nor a .gz or .zst of one")
    wanted = options.pile_partitions
    if options.source != "pile" or not wanted:
        return inside
    selected = [
        file for file in inside if not (match := _PARTITION.match(file.path.name)) or match[1] in wanted
    ]
    if not selected:
        raise MissingError(
            f"{folder}: none of the partitions {', '.join(wanted)}; name others or --filters none"
        )
    return selected


def _plain_name(file: Path) -> str:
    return file.name.removesuffix(file.suffix) if file.suffix in COMPRESSED else file.name


def plan_shards(inputs: list[Input], options: BuildOptions, shard_bytes: int) -> list[Shard]:
    """Cut plain files between records near each multiple of `shard_bytes`; an archive is one shard."""
    shards: list[Shard] = []
    for file in inputs:
        if options.source == "hf":
            cuts = list(range(0, file.size, ROWS_PER_SHARD))
        elif file.path.suffix in COMPRESSED:
            cuts = [0]
        else:
            cuts = _cuts(file, options, shard_bytes)
        for start, end in zip(cuts, [*cuts[1:], file.size], strict=True):
            shards.append(Shard(len(shards), file, start, end))
    return shards


ROWS_PER_SHARD = 20_000
# The end of a record, whatever its content: JSON escapes the quotes and line ends inside its strings.
_ENDS: dict[str, re.Pattern[bytes]] = {
    "text": re.compile(rb"\n[ \t\r]*\n"),
    "jsonl": re.compile(rb"\n"),
    "pile": re.compile(rb"\n"),
    "wudao": re.compile(rb'\}\s*,\s*(?=\{\s*")'),
    "stc": re.compile(rb"\n"),
}
_TURNS_END = re.compile(rb'\]\s*,\s*(?=\[\s*")')


def _cuts(file: Input, options: BuildOptions, shard_bytes: int) -> list[int]:
    if options.join_characters:  # where a document ends then depends on all that stands before
        return [0]
    cuts = [0]
    with file.path.open("rb") as stream:
        end = _ENDS[options.source]
        if options.source == "stc" and stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{"):
            end = _TURNS_END
        target = shard_bytes
        while target < file.size:
            cut = _next_end(stream, end, target, file.size)
            if cut < file.size:
                cuts.append(cut)
            target = cut + shard_bytes
    return cuts


def _next_end(stream: BinaryIO, end: re.Pattern[bytes], target: int, size: int) -> int:
    stream.seek(target)
    position, window = target, b""
    while chunk := stream.read(MIB):
        window = window[-256:]
        position -= len(window)
        window += chunk
        if match := end.search(window):
            return position + match.end()
        position += len(window)
    return size


def resume_key(file: Input) -> list[object]:
    """What tells whether an input has changed since a build began: name, size, time of change."""
    return [file.name, str(file.path.resolve()), file.size, file.path.stat().st_mtime_ns]
