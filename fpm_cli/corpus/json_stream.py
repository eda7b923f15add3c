"""Finds the JSON values of a stream one by one, in bounded memory; a broken one costs only itself."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fpm_cli.corpus.records import BROKEN, OVERSIZED, decode
from fpm_cli.streams import MIB, InputStream

OBJECT_START = re.compile(rb'\{\s*"')
TURNS_START = re.compile(rb'\[\s*"')
_LOOK_BACK = 256  # bytes; more than any start of a record, whatever its blanks
_MAX_PIECES = 8  # starts that one record may contain: nested objects, or a text that ends in `{`
_BETWEEN = re.compile(r'[\s,\[\]{}\x00]*(?:"[^"\\]*"\s*:[\s\[{]*)?')  # what may be between two records
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A value at a byte offset, or the `reason` why there is none. See `Decoded` for invalid bytes."""

    offset: int
    value: Any
    reason: str = ""
    invalid_at: int | None = None
    num_invalid: int = 0


def parse_line(offset: int, content: bytes) -> JsonValue:
    """The JSON value of one line; lone surrogates and control characters in strings are accepted."""
    import orjson

    try:
        return JsonValue(offset, orjson.loads(content))
    except orjson.JSONDecodeError:
        decoded = decode(content)
    try:
        value = json.loads(decoded.text.strip("\ufeff\0 \t\r\n"), strict=False)
    except (ValueError, RecursionError):
        return JsonValue(offset, None, BROKEN)
    return JsonValue(offset, value, "", decoded.invalid_at, decoded.num_invalid)


def json_values(stream: InputStream, start: re.Pattern[bytes], limit: int) -> Iterator[JsonValue]:
    """Yield each value that begins with `start`, wherever it is in larger arrays and objects.

    A value extends to the next start; if it does not parse, following pieces are added to it. What does
    not parse even so is one broken record, and reading continues at the next start. A value of more than
    `limit` bytes is oversized.
    """
    pieces = _pieces(stream, start, limit)
    waiting: list[tuple[int, bytes | None]] = []
    while True:
        while len(waiting) < _MAX_PIECES and (piece := next(pieces, None)):
            waiting.append(piece)
        if not waiting:
            return
        offset, content = waiting[0]
        if content is None:
            del waiting[0]
            yield JsonValue(offset, None, OVERSIZED)
            continue
        yield from _first_value(offset, waiting)


def _first_value(offset: int, waiting: list[tuple[int, bytes | None]]) -> Iterator[JsonValue]:
    """Take from `waiting` the pieces of its first value and yield it, then any broken rest after it."""
    joined = b""
    for taken, (_, piece) in enumerate(waiting, start=1):
        if piece is None:
            break
        joined += piece
        decoded = decode(joined)
        try:
            value, end = _DECODER.raw_decode(decoded.text)
        except (ValueError, RecursionError):
            continue
        del waiting[:taken]
        yield JsonValue(offset, value, "", decoded.invalid_at, decoded.num_invalid)
        if not _BETWEEN.fullmatch(decoded.text, end):
            yield JsonValue(offset + len(decoded.text[:end].encode(errors="surrogatepass")), None, BROKEN)
        return
    del waiting[0]
    yield JsonValue(offset, None, BROKEN)


def _pieces(stream: InputStream, start: re.Pattern[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Cut a stream before each match of `start`; a piece of more than `limit` bytes comes as None.

    What comes before the first match is a piece only if it is more than brackets and keys.
    """
    buffer, offset = b"", 0  # `buffer` begins `offset` bytes into the stream
    piece_offset, oversized, is_first = 0, False, True
    while chunk := stream.read(MIB):
        searched = max(len(buffer) - _LOOK_BACK, 0 if is_first else 1)
        buffer += chunk
        cut = 0
        for match in start.finditer(buffer, searched):
            piece = buffer[cut : match.start()]
            if oversized or not is_first or not _is_frame(piece):
                yield piece_offset, None if oversized else piece
            cut, oversized, is_first = match.start(), False, False
            piece_offset = offset + cut
        offset, buffer = offset + cut, buffer[cut:]
        if len(buffer) > limit:
            oversized = True
            offset, buffer = offset + len(buffer) - _LOOK_BACK, buffer[-_LOOK_BACK:]
    if oversized or not is_first or not _is_frame(buffer):
        yield piece_offset, None if oversized else buffer


def _is_frame(piece: bytes) -> bool:
    return _BETWEEN.fullmatch(piece.decode("utf-8-sig", errors="replace")) is not None
