"""The one layer through which every byte of a checkpoint goes to disk.

`Disk` has the few operations that a save is made of, each one system call. Tests put another in its
place: one that records them, so that every crash can be replayed, or one whose n-th call fails.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import xxhash

CHUNK_BYTES = 8 * 2**20  # checked and hashed while still in the cache, then written


class Disk:
    """The real one. Every method raises OSError, and nothing is durable before it is synced."""

    def make_folder(self, path: Path) -> None:
        """A new, empty folder."""
        path.mkdir()

    def create(self, path: Path) -> int:
        """A descriptor of a new, empty file; never one that is there, nor what a link points at."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Append some of `data`; returns how many bytes that was."""
        return os.write(descriptor, data)

    def write_back(self, descriptor: int, start: int) -> None:
        """Let the disk begin with the bytes from `start` on while more are written; promises nothing.

        Linux starts on what it is told will not be read again; the pages that it then drops were not needed.
        """
        if sys.platform == "linux":
            os.posix_fadvise(descriptor, start, 0, os.POSIX_FADV_DONTNEED)

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move `source` over `target` in one step."""
        source.rename(target)

    def sync_folder(self, path: Path) -> None:
        """Make the names in the folder durable."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """A file's or a link's name."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """An empty folder."""
        path.rmdir()


LOCAL = Disk()


@dataclass(frozen=True)
class FileFacts:
    """What a file must be, to be the one that was written."""

    bytes: int
    xxh3_128: str


def write_file(disk: Disk, path: Path, chunks: Iterable[bytes | memoryview]) -> FileFacts:
    """Write a new file, make its bytes durable, and say what was written.

    Raises:
        OSError: it could not be written.
    """
    hasher, size, begun = xxhash.xxh3_128(), 0, 0
    descriptor = disk.create(path)
    try:
        for chunk in chunks:
            whole = memoryview(chunk).cast("B")
            for start in range(0, len(whole), CHUNK_BYTES):
                part = whole[start : start + CHUNK_BYTES]
                hasher.update(part)
                size += len(part)
                while part:
                    part = part[disk.write(descriptor, part) :]
                if size - begun >= CHUNK_BYTES:
                    disk.write_back(descriptor, begun)
                    begun = size
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    return FileFacts(size, hasher.hexdigest())


def put_file(disk: Disk, path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one and nothing between; the name is not durable yet."""
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.is_symlink() or temporary.exists():  # of a crash
        disk.remove(temporary)
    write_file(disk, temporary, [content])
    disk.rename(temporary, path)


def replace_file(disk: Disk, path: Path, content: bytes) -> None:
    """As `put_file`, and durable: after a crash too it is the old file or the new one."""
    put_file(disk, path, content)
    disk.sync_folder(path.parent)


def describe(path: Path) -> FileFacts:
    """What a file is now."""
    hasher, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    return FileFacts(size, hasher.hexdigest())


def remove_tree(disk: Disk, path: Path) -> None:
    """Remove a file, or a folder and all in it; a link is removed, never followed."""
    if path.is_symlink() or not path.is_dir():
        disk.remove(path)
        return
    for below in sorted(path.iterdir()):
        remove_tree(disk, below)
    disk.remove_folder(path)
