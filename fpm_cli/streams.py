"""Reads plain, gzip and Zstandard files alike, in bounded memory: the only reader of compressed text.

A damaged archive ends its stream early; what came before it is read, and `InputStream.defect` says where
and why the stream ended.
"""

import codecs
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

MIB = 1 << 20
COMPRESSED = (".gz", ".zst")  # suffixes in any case; content that begins like one needs no suffix
EXPANSION_FLOOR = 64 * MIB
# Archives are decompressed in small pieces, because one piece can expand a thousandfold.
ARCHIVE_CHUNK = 2048
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_MAX_WINDOW = 1 << 31  # bytes, as `zstd --long=31` writes; the decoder takes so much memory at most


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
    _defect: StreamDefect | None = None

    @property
    def defect(self) -> StreamDefect | None:
        return self._defect

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


class _Plain(_Raw):
    """The bytes of an open file as they are."""

    def __init__(self, file: io.BufferedReader, closes: bool) -> None:
        self._file, self._closes = file, closes

    def readinto(self, buffer: Any) -> int:
        content = self._file.read1(len(buffer))
        memoryview(buffer)[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if self._closes:
            self._file.close()
        super().close()


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Archive(_Raw):
    """The content of gzip members or Zstandard frames, of any number, bounded in memory and expansion."""

    def __init__(
        self, file: io.BufferedReader, closes: bool, is_gzip: bool, max_expansion: int | None
    ) -> None:
        self._file, self._closes = file, closes
        self._is_gzip, self._max_expansion = is_gzip, max_expansion
        self._decoder: _Decoder | None = None
        self._pending, self._content = b"", memoryview(b"")
        self._bytes_in = self._bytes_out = 0

    def readinto(self, buffer: Any) -> int:
        while not self._content and self.defect is None:
            chunk = self._pending or self._read_chunk()
            if not chunk:
                if self._decoder is not None:
                    self._stop("truncated", "the archive ends in the middle of a member")
                return 0
            self._feed(chunk)
        count = min(len(self._content), len(buffer))
        memoryview(buffer)[:count] = self._content[:count]
        self._content = self._content[count:]
        return count

    def _read_chunk(self) -> bytes:
        chunk = self._file.read(ARCHIVE_CHUNK)
        self._bytes_in += len(chunk)
        return chunk

    def _feed(self, chunk: bytes) -> None:
        import zstandard

        self._pending = b""
        if self._decoder is None and self._is_gzip and not (chunk := chunk.lstrip(b"\0")):
            return  # zeros between and after members are padding (gzip's manual, "tapes")
        try:
            self._decoder = self._decoder or self._new_decoder()
            content = self._decoder.decompress(chunk)
        except (zlib.error, zstandard.ZstdError) as error:
            self._stop("corrupt_archive", str(error))
            return
        if self._decoder.eof:
            self._pending, self._decoder = self._decoder.unused_data, None
        self._bytes_out += len(content)
        if self._max_expansion and self._bytes_out > max(
            EXPANSION_FLOOR, self._max_expansion * self._bytes_in
        ):
            self._stop("expansion_limit", f"{self._bytes_out} bytes out of {self._bytes_in}")
            return
        self._content = memoryview(content)

    def _new_decoder(self) -> _Decoder:
        import zstandard

        if self._is_gzip:
            return zlib.decompressobj(wbits=31)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
        return cast(_Decoder, decompressor.decompressobj())

    def _stop(self, reason: str, detail: str) -> None:
        self._defect = StreamDefect(self._bytes_out, reason, detail)

    def close(self) -> None:
        if self._closes:
            self._file.close()
        super().close()


class _Transcoded(_Raw):
    """A stream in another encoding as UTF-8; what the encoding does not have becomes U+FFFD."""

    def __init__(self, stream: InputStream, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._content = memoryview(b"")
        self._at_end = False

    @property
    def defect(self) -> StreamDefect | None:
        return self._stream.defect

    def readinto(self, buffer: Any) -> int:
        while not self._content and not self._at_end:
            chunk = self._stream.read(MIB)
            self._at_end = not chunk
            self._content = memoryview(self._decoder.decode(chunk, self._at_end).encode(errors="replace"))
        count = min(len(self._content), len(buffer))
        memoryview(buffer)[:count] = self._content[:count]
        self._content = self._content[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def is_compressed(path: Path) -> bool:
    """Whether `open_input` decompresses the file: its content begins as one does, or its name ends so."""
    with path.open("rb") as file:
        return _compression(path.name, file.read(4)) is not None


def without_compression_suffix(name: str) -> str:
    """`a.txt` for `a.txt.gz` and `a.txt.ZST`; other names as they are."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in COMPRESSED else name


def open_input(path: Path, max_expansion: int | None = None, encoding: str = "utf-8") -> InputStream:
    """Open the content of a file, decompressed if need be, as UTF-8.

    An archive that has grown to `max_expansion` times its bytes, and past 64 MiB, ends there. Text in
    another `encoding` is converted. Raises OSError as `Path.open` does.
    """
    return _open(path.open("rb"), True, path.name, max_expansion, encoding)


def open_stdin(file: BinaryIO, encoding: str = "utf-8") -> InputStream:
    """`open_input` of a binary stream that stays open: standard input, whatever it is compressed with."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(Any, file))
    return _open(buffered, False, "", None, encoding)


def _open(
    file: io.BufferedReader, closes: bool, name: str, max_expansion: int | None, encoding: str
) -> InputStream:
    raw: _Raw
    if (kind := _compression(name, file.peek(4)[:4])) is None:
        raw = _Plain(file, closes)
    else:
        raw = _Archive(file, closes, kind == ".gz", max_expansion)
    stream = InputStream(raw)
    return stream if encoding == "utf-8" else InputStream(_Transcoded(stream, encoding))


def open_range(path: Path, start: int, end: int) -> InputStream:
    """Open bytes `start` to `end` of a file as they are."""
    return InputStream(_Range(path, start, end))


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


def _compression(name: str, head: bytes) -> str | None:
    if head.startswith(_GZIP_MAGIC):
        return ".gz"
    if head == _ZSTD_MAGIC:
        return ".zst"
    suffix = Path(name).suffix.lower()
    return suffix if suffix in COMPRESSED and head else None
