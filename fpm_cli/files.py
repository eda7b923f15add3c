"""Replacing a file so that a reader, or a crash, sees the old or the new one and nothing between."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fpm_cli.errors import UsageError


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
