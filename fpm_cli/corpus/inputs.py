"""Finds the inputs of a build."""

import re
from dataclasses import dataclass
from pathlib import Path

from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.streams import COMPRESSED
from fpm_cli.errors import MissingError, UsageError

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


def find_inputs(paths: list[Path], options: BuildOptions) -> list[Input]:
    """The files given, and those in the folders given, in a stable order.

    A name is relative to the folder that the user gave, so that it says nothing of the machine.
    Raises MissingError for a path that is absent and a folder with no file of the source's kind, and
    UsageError for a link that leads out of a folder: whoever made the folder may not read what it names.
    """
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
    root = folder.resolve()
    for file in inside:
        if not file.path.resolve().is_relative_to(root):
            target = file.path.resolve()
            raise UsageError(f"{file.path} leads out of the folder; name {target} as an input if you want it")
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


def resume_key(file: Input) -> list[object]:
    """What tells whether an input has changed since a build began: name, size, time of change."""
    return [file.name, str(file.path.resolve()), file.size, file.path.stat().st_mtime_ns]
