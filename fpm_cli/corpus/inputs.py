"""Finds the inputs of a build, and what in the given folders is no input."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fpm_cli.corpus.manifest import SkippedInput
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.encodings import UNKNOWN, UTF8, file_encoding
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.streams import without_compression_suffix

SUFFIXES = {
    "text": (".txt", ".md"),
    "jsonl": (".jsonl", ".json", ".ndjson"),
    "pile": (".jsonl",),
    "wudao": (".json", ".jsonl"),
    "stc": (".tsv", ".txt", ".json", ".jsonl"),
}
NOT_DATA = ("SOURCE.txt", "LICENSE.txt", "README.txt", "README.md")
_PARTITION = re.compile(r"(\d\d)\.jsonl")

# Why a file of a folder is not read.
SUFFIX, ABOUT, PARTITION, NOT_UTF8 = "other_suffix", "about_the_data", "partition_not_selected", "not_utf8"
DANGLING, LOOP, LINKED, SPECIAL = "dangling_link", "link_loop", "linked_folder", "not_a_file"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Input:
    """A file, or a data set's split, and its name within what the user gave."""

    name: str
    path: Path
    size: int  # bytes; rows of an `hf` data set
    encoding: str = UTF8


@dataclass(frozen=True)
class FoundInputs:
    """The inputs in their order, and what was passed over."""

    inputs: list[Input] = field(default_factory=list)
    skipped: list[SkippedInput] = field(default_factory=list)


def find_inputs(paths: list[Path], options: BuildOptions) -> FoundInputs:
    """The files given, and those in the folders given, in a stable order.

    A name is relative to the folder that the user gave, so that it does not depend on the machine. A
    file that is not UTF-8 is skipped unless `options.encoding` says how to read it. Raises MissingError
    for a path that is absent and for nothing to read, and UsageError for a link that leads out of a folder:
    whoever made the folder may not have the right to read what it names.
    """
    selection = FoundInputs()
    for path in paths:
        if path.is_dir():
            _add_folder(path, options, selection)
        elif path.is_file():
            selection.inputs.append(Input(printable_name(Path(path.name)), path, path.stat().st_size))
        else:
            raise MissingError(f"{path} is not there")
    selection = _with_encodings(selection, options)
    if not selection.inputs:
        raise MissingError(f"nothing to read: {describe_skipped(selection.skipped)}")
    return selection


def printable_name(path: Path) -> str:
    """The path with slashes; a byte that is not UTF-8 is written `\\xff`, which JSON can hold."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def describe_skipped(skipped: Sequence[SkippedInput], num_names: int = 3) -> str:
    """The skipped files by reason, each with how many there are and the first names."""
    by_reason: dict[str, list[SkippedInput]] = {}
    for file in skipped:
        by_reason.setdefault(file.reason, []).append(file)
    parts = []
    for reason, files in sorted(by_reason.items()):
        names = [file.name + (f" ({file.detail})" if file.detail else "") for file in files[:num_names]]
        more = ["..."] if len(files) > num_names else []
        parts.append(f"{reason} {len(files):,}: {', '.join(names + more)}")
    return "; ".join(parts)


def _add_folder(folder: Path, options: BuildOptions, found: FoundInputs) -> None:
    suffixes = SUFFIXES[options.source]
    root = folder.resolve()
    inputs: list[Input] = []
    skipped: list[SkippedInput] = []
    for path in _walk(folder, skipped):
        name = printable_name(path.relative_to(folder))
        if reason := _reason_to_skip(path, suffixes, options):
            skipped.append(SkippedInput(name=name, reason=reason))
        elif not (target := path.resolve()).is_relative_to(root):
            raise UsageError(f"{path} leads out of the folder; name {target} as an input if you want it")
        else:
            inputs.append(Input(name, path, path.stat().st_size))
    if not inputs and any(file.reason == PARTITION for file in skipped):
        wanted = ", ".join(options.pile_partitions)
        raise MissingError(f"{folder}: none of the partitions {wanted}; name others or --filters none")
    if not inputs:
        seen = f" (in it: {describe_skipped(skipped)})" if skipped else ""
        raise MissingError(f"{folder}: no {' or '.join(suffixes)} file in it, nor a .gz or .zst of one{seen}")
    found.inputs.extend(inputs)
    found.skipped.extend(sorted(skipped, key=lambda file: file.name))


def _walk(folder: Path, skipped: list[SkippedInput]) -> Iterator[Path]:
    """Everything in a folder but its real folders, in order; linked folders are not entered."""

    def report(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        skipped.append(SkippedInput(name=printable_name(path.relative_to(folder)), reason=UNREADABLE))

    paths = []
    for parent, folders, files in os.walk(folder, onerror=report):
        linked = [name for name in folders if (Path(parent) / name).is_symlink()]
        paths += [Path(parent) / name for name in (*files, *linked)]
    return iter(sorted(paths))


def _reason_to_skip(path: Path, suffixes: tuple[str, ...], options: BuildOptions) -> str:
    """Why a file or link of a folder is not read; empty if it is."""
    try:
        path.stat()
    except FileNotFoundError:
        return DANGLING
    except PermissionError:
        return UNREADABLE
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return LOOP
    if path.is_dir():
        return LINKED
    plain_name = without_compression_suffix(path.name)
    if not plain_name.lower().endswith(suffixes):
        return SUFFIX
    if path.name in NOT_DATA:
        return ABOUT
    if not path.is_file():
        return SPECIAL
    if not os.access(path, os.R_OK):
        return UNREADABLE
    partition = _PARTITION.match(plain_name.lower()) if options.source == "pile" else None
    if partition and options.pile_partitions and partition[1] not in options.pile_partitions:
        return PARTITION
    return ""


def _with_encodings(found: FoundInputs, options: BuildOptions) -> FoundInputs:
    """Each input with its encoding; what is not UTF-8 is skipped where no encoding was asked for."""
    inputs: list[Input] = []
    skipped = list(found.skipped)
    for file in found.inputs:
        likely = file_encoding(file.path, options.max_expansion)
        if likely == UTF8:
            inputs.append(file)
        elif not options.encoding or (options.encoding == "auto" and likely == UNKNOWN):
            detail = (
                f"likely {likely}: --encoding {likely} or auto reads it"
                if likely
                else "no text that is known"
            )
            skipped.append(SkippedInput(name=file.name, reason=NOT_UTF8, detail=detail))
        else:
            encoding = likely if options.encoding == "auto" else options.encoding
            inputs.append(Input(file.name, file.path, file.size, encoding))
    return FoundInputs(inputs, skipped)


def resume_key(file: Input) -> list[object]:
    """What tells whether an input has changed since a build began: name, size, time of change."""
    modified = file.path.stat().st_mtime_ns if file.path.exists() else 0  # a cached data set is no path
    return [file.name, printable_name(file.path.resolve()), file.size, modified]
