"""Atomic, synced writes of binary files, and checksums."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import xxhash

from fpm_cli.files import sync_folder

CHUNK_BYTES = 1 << 20


@contextmanager
def atomic_write(path: Path, sync_name: bool = True) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing; on a clean exit sync it and rename it into place.

    The temporary name carries the process id, so that two processes never share one. `sync_name` may be
    left out where another file of the folder is written after this one and only then counted on.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync_name:
        sync_folder(path.parent)


def checksum(path: Path) -> str:
    """Return the hex xxh3-128 of a file's bytes, read in chunks."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return str(digest.hexdigest())
