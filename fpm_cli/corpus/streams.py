"""Opens inputs for reading, whatever they are packed in; damage ends a stream and is remembered."""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from fpm_cli.corpus.options import MIB

COMPRESSED = (".gz", ".zst")
EXPANSION_FLOOR = 64 * MIB
# Fed in small pieces, because a piece may grow a thousandfold before its growth can be seen.
ARCHIVE_CHUNK = 2048


@dataclass(frozen=True)
class StreamDefect:
    """Where a stream ended before its time (bytes of content), and why."""

    offset: int
    reason: str
    detail: str


class InputStream(io.BufferedReader):
    """A readable stream; `defect` says, once it has been read to its end, whether that came too early."""

    def __init__(self, raw: "_Raw") -> None:
        super().__init__(raw, MIB)
        self._source = raw

    @property
    def defect(self) -> StreamDefect | None:
        """None when everything could be read."""
        return self._source.defect


class _Raw(io.RawIOBase):
    defect: StreamDefect | None = None

    def readable(self) -> bool:
        return True


class _Range(_Raw):
    """The bytes of a plain file from `start` up to `end`."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(start)
        self._left = end - start

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        count = self._file.readinto(view) or 0
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Archive(_Raw):
    """The content of a .gz or .zst file of any number of members, bounded in memory and in growth."""

    def __init__(self, path: Path, max_expansion: int) -> None:
        self._file = path.open("rb")
        self._is_gzip = path.suffix == ".gz"
        self._max_expansion = max_expansion
        self._decoder: _Decoder | None = None
        self._pending, self._content = b"", memoryview(b"")
        self._bytes_in = self._bytes_out = 0

    def readinto(self, buffer: Any) -> int:
        while not self._content and self.defect is None:
            chunk = self._pending or self._file.read(ARCHIVE_CHUNK)
            if not chunk:
                if self._decoder is not None:
                    self._stop("truncated", "the archive ends in the middle of a member")
                return 0
            self._feed(chunk)
        count = min(len(self._content), len(buffer))
        memoryview(buffer)[:count] = self._content[:count]
        self._content = self._content[count:]
        return count

    def _feed(self, chunk: bytes) -> None:
        import zstandard

        self._bytes_in += len(chunk) if not self._pending else 0
        self._pending = b""
        try:
            self._decoder = self._decoder or self._new_decoder()
            content = self._decoder.decompress(chunk)
        except (zlib.error, zstandard.ZstdError) as error:
            self._stop("corrupt_archive", str(error))
            return
        if self._decoder.eof:
            self._pending, self._decoder = self._decoder.unused_data, None
            if self._is_gzip and not self._pending.strip(b"\0"):
                self._pending = b""  # gzip allows padding
        self._bytes_out += len(content)
        if self._bytes_out > max(EXPANSION_FLOOR, self._max_expansion * self._bytes_in):
            self._stop("expansion_limit", f"{self._bytes_out} bytes out of {self._bytes_in}")
            return
        self._content = memoryview(content)

    def _new_decoder(self) -> _Decoder:
        import zstandard

        if self._is_gzip:
            return zlib.decompressobj(wbits=31)
        return cast(_Decoder, zstandard.ZstdDecompressor().decompressobj())

    def _stop(self, reason: str, detail: str) -> None:
        self.defect = StreamDefect(self._bytes_out, reason, detail)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_range(path: Path, start: int, end: int) -> InputStream:
    """Open bytes `start` to `end` of a file as they are."""
    return InputStream(_Range(path, start, end))


def open_archive(path: Path, max_expansion: int) -> InputStream:
    """Open the content of a .gz or .zst file."""
    return InputStream(_Archive(path, max_expansion))


def lines(stream: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (offset, line with its end); a line of more than `limit` bytes comes as None, unread."""
    offset = 0
    while line := stream.readline(limit + 1):
        size = len(line)
        whole = size <= limit or line.endswith(b"\n")
        yield offset, line if whole else None
        while not whole and (line := stream.readline(MIB)):
            size += len(line)
            whole = line.endswith(b"\n")
        offset += size
