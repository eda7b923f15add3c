"""Replacing a file so that a reader, or a crash, sees the old or the new one; reading what others wrote."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fpm_cli.errors import DamagedError, UsageError

MOST_BYTES = 2**28  # of a JSON file or a tokenizer's; the largest vocabularies take a tenth


def within(folder: Path, name: str) -> Path:
    """`folder / name`, if neither `..` nor a link in it leads out of the folder.

    Raises:
        DamagedError: it does.
    """
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise DamagedError(f"{folder}: {name!r} lies outside the folder")
    return path


def read_whole(path: Path) -> bytes:
    """The bytes of a file that somebody else made.

    Raises:
        FileNotFoundError: it is not there.
        DamagedError: it is a pipe, a device or a folder, or has more than MOST_BYTES.
    """
    if path.exists() and not path.is_file():
        raise DamagedError(f"{path} is no file")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DamagedError(f"{path}: {size:,} bytes, but such a file has at most {MOST_BYTES:,}")
    return path.read_bytes()


def parse_json(content: bytes) -> Any:
    """The JSON value in UTF-8 text that somebody else made.

    Raises:
        ValueError: it is none, or is nested too deep.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def replace_text(path: Path, text: str) -> None:
    """Write UTF-8 text to `path` by way of a temporary file beside it: fsync, rename, fsync the folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Where to make the folder, beside `path`; renamed to it at the end. An error leaves nothing behind.

    Raises:
        UsageError: `path` is already there.
    """
    if path.exists():
        raise UsageError(f"{path} is already there; choose another --out or remove it")
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        for file in beside.rglob("*"):
            (sync_folder if file.is_dir() else sync_file)(file)
        beside.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def sync_folder(path: Path) -> None:
    """Make renames and new names in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a written file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
