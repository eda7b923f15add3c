"""Writing files durably: a reader, or a restart after a crash, sees the old file or the new one.

New content goes to a temporary file beside its target, is synced, and is renamed over the target; then the
folder is synced, which makes the rename durable. `Disk` has the few operations that this takes, each one
system call. Tests put another disk in its place: one that records the operations, so that every crash can be
replayed, or one whose n-th operation fails.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import xxhash

from fpm_cli.errors import UsageError
from fpm_cli.frozen import Frozen

CHUNK_BYTES = 8 * 2**20  # hashed while still in the processor's cache, then written


class FileFacts(Frozen):
    """The size in bytes and the hex xxh3-128 of one file."""

    bytes: int
    xxh3_128: str


class Disk:
    """The operations of a durable write on the real file system; every method raises OSError."""

    def make_folder(self, path: Path) -> None:
        """Make a new, empty folder."""
        path.mkdir()

    def create(self, path: Path) -> int:
        """Open a new, empty file for writing and return its descriptor.

        A file that is already there is an error, and a link is never followed.
        """
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Append some of `data` and return how many bytes that was."""
        return os.write(descriptor, data)

    def write_back(self, descriptor: int, start: int) -> None:
        """Ask the kernel to start writing the bytes from `start` on; guarantees nothing.

        POSIX_FADV_DONTNEED makes Linux start the writeback of dirty pages. It also drops the clean ones,
        which are not read again.
        """
        if sys.platform == "linux":
            os.posix_fadvise(descriptor, start, 0, os.POSIX_FADV_DONTNEED)

    def sync(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move `source` over `target` atomically."""
        source.rename(target)

    def sync_folder(self, path: Path) -> None:
        """Make the names in the folder durable."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file or a link."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()


LOCAL_DISK = Disk()


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Give errors the file's name: the kernel reports a full disk (write, fsync) without one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_file(path: Path, chunks: Iterable[bytes | memoryview], disk: Disk = LOCAL_DISK) -> FileFacts:
    """Write a new file and make its bytes durable; its name is not durable before the folder is synced.

    Raises:
        OSError: it could not be written.
    """
    hasher, num_bytes, write_back_from = xxhash.xxh3_128(), 0, 0
    descriptor = disk.create(path)
    try:
        with naming_errors(path):
            for chunk in chunks:
                content = memoryview(chunk).cast("B")
                for start in range(0, len(content), CHUNK_BYTES):
                    part = content[start : start + CHUNK_BYTES]
                    hasher.update(part)
                    num_bytes += len(part)
                    while part:
                        part = part[disk.write(descriptor, part) :]
                    if num_bytes - write_back_from >= CHUNK_BYTES:
                        disk.write_back(descriptor, write_back_from)
                        write_back_from = num_bytes
            disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    return FileFacts(bytes=num_bytes, xxh3_128=hasher.hexdigest())


def replace_file(path: Path, content: bytes, disk: Disk = LOCAL_DISK, *, sync_name: bool = True) -> None:
    """Replace `path` atomically by a file with this content.

    With `sync_name` the new file is durable on return. It may be left out where another file of the folder
    is written later and only that one is relied on.

    Raises:
        OSError: it could not be written; the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.is_symlink() or temporary.exists():  # left by a crash
        disk.remove(temporary)
    write_file(temporary, [content], disk)
    disk.rename(temporary, path)
    if sync_name:
        disk.sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace `path` atomically and durably by a file with this text, encoded in UTF-8."""
    replace_file(path, text.encode())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, after a file in it was created or renamed."""
    LOCAL_DISK.sync_folder(path)


@contextmanager
def atomic_write(path: Path, *, sync_name: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` on a clean exit; an error leaves nothing behind.

    The temporary file's name has the process id in it, so that two processes never share one. `sync_name` as
    in `replace_file`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_errors(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync_name:
        sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield where to make a new folder, beside `path`; on a clean exit it is synced and renamed to `path`.

    An error leaves nothing behind.

    Raises:
        UsageError: `path` is already there, and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{path} is already there; choose another --out or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_errors(path):
            yield temporary
            sync_tree(temporary)
        temporary.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sync_tree(folder: Path) -> None:
    """Make every file and every name in a folder durable."""
    for path in folder.rglob("*"):
        if not path.is_dir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync_folder(path)


def hash_file(path: Path) -> FileFacts:
    """Read a file's size and checksum.

    Raises:
        OSError: it could not be read.
    """
    hasher, num_bytes = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
            num_bytes += len(chunk)
    return FileFacts(bytes=num_bytes, xxh3_128=hasher.hexdigest())


def remove_tree(path: Path, disk: Disk = LOCAL_DISK) -> None:
    """Remove a file, or a folder with all its content; a link is removed, never followed."""
    if path.is_symlink() or not path.is_dir():
        disk.remove(path)
        return
    for child in sorted(path.iterdir()):
        remove_tree(child, disk)
    disk.remove_folder(path)
