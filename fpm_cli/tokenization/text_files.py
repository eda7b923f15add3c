"""Text from files and standard input, and results back: plain, .gz or .zst, UTF-8, line by line."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import atomic_write

OnDecodeError = Literal["strict", "replace", "skip"]
STANDARD = Path("-")
_BLOCK_BYTES = 1 << 20


@dataclass
class DecodeErrors:
    """What was not UTF-8: lines with a fault, and bad byte sequences in them."""

    lines: int = 0
    sequences: int = 0


def read_lines(inputs: Iterable[Path], on_error: OnDecodeError, decode_errors: DecodeErrors) -> Iterator[str]:
    """The lines of all inputs, without their newlines; `-` is standard input. Memory: one line.

    Only U+000A ends a line. Where bytes are not UTF-8, `strict` raises DamagedError with file and
    byte offset, `replace` puts U+FFFD and `skip` leaves the line out; both are counted in `decode_errors`.
    """
    for path in inputs:
        offset = 0
        for line in _split_lines(_blocks(path)):
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                if on_error == "strict":
                    raise DamagedError(
                        f"{_name(path)} is not UTF-8 at byte {offset + error.start:,} "
                        f"(0x{line[error.start]:02x}); --errors replace or --errors skip goes on"
                    ) from None
                text = line.decode("utf-8", "replace")
                decode_errors.lines += 1
                decode_errors.sequences += text.count("\ufffd") - line.count("\ufffd".encode())
                if on_error == "replace":
                    yield text
            offset += len(line) + 1


def join_lines(lines: Iterable[str], num_characters: int = 1 << 16) -> Iterator[str]:
    """Lines joined again into texts of at least so many characters, so that newlines are trained too."""
    texts: list[str] = []
    size = 0
    for line in lines:
        texts.append(line + "\n")
        size += len(line) + 1
        if size >= num_characters:
            yield "".join(texts)
            texts, size = [], 0
    if texts:
        yield "".join(texts)


@contextmanager
def write_text(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file for writing, compressed as its name says; it appears whole or not at all."""
    if path == STANDARD:
        yield sys.stdout
        return
    with atomic_write(path) as file, _compressed(path, file) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()


@contextmanager
def _compressed(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    if path.suffix == ".gz":
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:  # no name, no time: same bytes
            yield packed  # type: ignore[misc]
    elif path.suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
            yield packed
    else:
        yield file


def _blocks(path: Path) -> Iterator[bytes]:
    if path == STANDARD:
        yield from iter(lambda: sys.stdin.buffer.read(_BLOCK_BYTES), b"")
        return
    if not path.is_file():
        raise MissingError(f"no file {path}")
    try:
        with path.open("rb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield from iter(lambda: unpacked.read(_BLOCK_BYTES), b"")
            elif path.suffix == ".zst":
                yield from _zstandard_blocks(file)
            else:
                yield from iter(lambda: file.read(_BLOCK_BYTES), b"")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def _zstandard_blocks(file: BinaryIO) -> Iterator[bytes]:
    import zstandard

    packed = b""
    try:
        while packed := packed or file.read(_BLOCK_BYTES):
            frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            while not frame.eof:
                if not packed and not (packed := file.read(_BLOCK_BYTES)):
                    raise EOFError("it ends within a frame")
                yield frame.decompress(packed)
                packed = frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from error


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    for block in blocks:
        first, *rest = block.split(b"\n")
        parts.append(first)
        for line in rest:
            yield b"".join(parts)
            parts = [line]
    last = b"".join(parts)
    if last:
        yield last


def _name(path: Path) -> str:
    return "standard input" if path == STANDARD else str(path)
