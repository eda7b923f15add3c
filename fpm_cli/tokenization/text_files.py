"""Lines of text from files and standard input, and results to files: plain, gzip or Zstandard."""

import gzip
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from fpm_cli.encodings import UNKNOWN, UTF8, file_encoding
from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import atomic_write
from fpm_cli.streams import InputStream, open_input, open_stdin

OnDecodeError = Literal["strict", "replace", "skip"]
STANDARD = Path("-")
_BLOCK_BYTES = 1 << 20


@dataclass
class DecodeErrors:
    """What was not UTF-8: the lines concerned, and the invalid byte sequences in them."""

    lines: int = 0
    sequences: int = 0


def read_lines(
    inputs: Iterable[Path],
    on_error: OnDecodeError,
    decode_errors: DecodeErrors,
    encoding: str = "",
) -> Iterator[str]:
    """The lines of all inputs, without their newlines; `-` is standard input. Memory: one line.

    Only U+000A ends a line. Files are UTF-8; `encoding` (`auto`: the likely one of each file) is that of
    those which are not. Bytes that are not of the encoding: `strict` raises DamagedError with file and
    byte offset, `replace` puts U+FFFD and `skip` leaves the line out; both are counted in `decode_errors`.
    """
    for path in inputs:
        with _open(path, encoding) as stream:
            offset = 0
            for line in _split_lines(iter(lambda: stream.read1(_BLOCK_BYTES), b"")):
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError as error:
                    if on_error == "strict":
                        raise _not_utf8(path, offset + error.start, line[error.start :]) from None
                    text = line.decode("utf-8", "replace")
                    decode_errors.lines += 1
                    decode_errors.sequences += text.count("\ufffd") - line.count("\ufffd".encode())
                    if on_error == "replace":
                        yield text
                offset += len(line) + 1
            if stream.defect:
                raise DamagedError(f"{path} is damaged: {stream.defect.detail}")


def _open(path: Path, encoding: str) -> InputStream:
    if path == STANDARD:
        return open_stdin(sys.stdin.buffer, UTF8 if encoding == "auto" else encoding or UTF8)
    if not path.is_file():
        raise MissingError(f"no file {path}")
    if encoding and (likely := file_encoding(path)) != UTF8:
        if encoding == "auto" and likely == UNKNOWN:
            raise DamagedError(f"{path} is not UTF-8, nor text in another encoding that is known")
        return open_input(path, encoding=likely if encoding == "auto" else encoding)
    return open_input(path)


def _not_utf8(path: Path, offset: int, content: bytes) -> DamagedError:
    """The error for bytes that are not UTF-8; it names the encoding that the file is likely in."""
    likely = UTF8 if path == STANDARD else file_encoding(path)
    hint = f"it is likely {likely}: --encoding {likely}, or " if likely not in (UTF8, UNKNOWN) else ""
    return DamagedError(
        f"{_name(path)} is not UTF-8 at byte {offset:,} (0x{content[0]:02x}); "
        f"{hint}--errors replace or --errors skip reads it all the same"
    )


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
    """A UTF-8 file for writing, compressed as its name says; it is written atomically."""
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
