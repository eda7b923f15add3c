"""Six sources, each a stream of records: a document and its place, or the reason there is none."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fpm_cli.corpus.options import MIB, BuildOptions
from fpm_cli.corpus.streams import InputStream, lines

BROKEN, NO_TEXT, OVERSIZED, EXCLUDED = "broken_json", "no_text_field", "oversized", "excluded_set"
INVALID = "invalid_utf8"
_LOOK_BACK = 256  # bytes; more than any start of a record, whatever its blanks
_MAX_PIECES = 8  # starts that one record may contain: nested objects, or a text that ends in `{`


@dataclass(frozen=True, slots=True)
class Record:
    """One document at a byte offset of its input's content; without text, `reason` says why.

    `id` is the source's own name of the document; `group` is what a dialogue replies to. `invalid_at`
    is the offset of the first byte that was not UTF-8 and was left out.
    """

    offset: int
    text: str | None
    reason: str = ""
    id: str = ""
    group: str = ""
    invalid_at: int | None = None


def read_text(stream: InputStream, options: BuildOptions) -> Iterator[Record]:
    """Documents of a plain text: a blank line, or the file's end, ends one."""
    start = end = size = 0
    parts: list[bytes] | None = []  # None: the document is over the limit
    for offset, line in lines(stream, options.max_document_bytes):
        if line is not None and not line.strip():
            if parts is None or (parts and size >= options.join_characters):
                yield _text_record(start, parts)
                parts, size = [], 0
            elif parts:
                parts.append(line)
            continue
        if parts == []:
            start = offset
        end = offset + len(line or b"")
        if line is None or end - start > options.max_document_bytes:
            parts = None
        elif parts is not None:
            parts.append(line)
            size += _characters(line) if options.join_characters else 1
    if parts is None or parts:
        yield _text_record(start, parts)


def _characters(line: bytes) -> int:
    return len(line.decode(errors="ignore"))


def _text_record(start: int, parts: list[bytes] | None) -> Record:
    if parts is None:
        return Record(start, None, OVERSIZED)
    text, invalid = _decode(b"".join(parts))
    return Record(start, text, invalid_at=None if invalid is None else start + invalid)


def read_jsonl(stream: InputStream, options: BuildOptions) -> Iterator[Record]:
    """One JSON object a line; blank lines are no documents."""
    for offset, line in lines(stream, options.max_document_bytes):
        if line is None:
            yield Record(offset, None, OVERSIZED)
        elif line.strip():
            value, invalid = _parse(line)
            yield _json_record(offset, value, invalid, options)


def read_wudao(stream: InputStream, options: BuildOptions) -> Iterator[Record]:
    """Objects of a JSON array, found one by one: title and content."""
    for offset, value, invalid in _json_values(stream, _OBJECT_START, options.max_document_bytes):
        record = _json_record(offset, value, invalid, options)
        title = value.get("title") if isinstance(value, dict) else None
        if record.text is not None and isinstance(title, str) and title.strip():
            text = f"{title}\n{record.text}"
            record = Record(offset, text, id=record.id, invalid_at=record.invalid_at)
        yield record


def read_stc(stream: InputStream, options: BuildOptions) -> Iterator[Record]:
    """Dialogues, a turn a line of the document: lists of turns in JSON at any depth, or `post<TAB>response`.

    The blanks between segmented Chinese words or characters are taken out.
    """
    head = stream.peek(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] in (b"[", b"{"):
        for offset, value, invalid in _json_values(stream, _TURNS_START, options.max_document_bytes):
            if isinstance(value, str):
                yield Record(offset, None, value)
            elif isinstance(value, list) and all(isinstance(turn, str) for turn in value):
                yield _dialogue(offset, value, invalid)
            else:
                yield Record(offset, None, NO_TEXT)
        return
    for offset, line in lines(stream, options.max_document_bytes):
        if line is None:
            yield Record(offset, None, OVERSIZED)
        elif line.strip():
            text, invalid = _decode(line)
            yield _dialogue(offset, text.strip("\n\r").split("\t"), invalid)


def _dialogue(offset: int, turns: list[str], invalid: int | None) -> Record:
    turns = [joined for turn in turns if (joined := join_segmented(turn))]
    if len(turns) < 2:
        return Record(offset, None, "no_response")
    invalid_at = None if invalid is None else offset + invalid
    return Record(offset, "\n".join(turns), group=turns[0], invalid_at=invalid_at)


_SEGMENTED = re.compile(r"(?<![A-Za-z0-9])[ \t\u3000]+|[ \t\u3000]+(?![A-Za-z0-9])")


def join_segmented(turn: str) -> str:
    """The turn without the blanks around Chinese; those between two Latin words or numbers stay."""
    return _SEGMENTED.sub("", turn.replace("\n", " ").replace("\r", " ").strip())


def _json_record(offset: int, value: Any, invalid: int | None, options: BuildOptions) -> Record:
    if isinstance(value, str) and value in (BROKEN, OVERSIZED):
        return Record(offset, None, value)
    if not isinstance(value, dict):
        return Record(offset, None, NO_TEXT)
    meta = value.get("meta")
    if options.exclude_sets and isinstance(meta, dict) and meta.get("pile_set_name") in options.exclude_sets:
        return Record(offset, None, EXCLUDED)
    text = value.get(options.text_field)
    if not isinstance(text, str):
        return Record(offset, None, NO_TEXT)
    identity = value.get(options.id_field) if options.id_field else None
    invalid_at = None if invalid is None else offset + invalid
    return Record(offset, text, id="" if identity is None else str(identity), invalid_at=invalid_at)


def _decode(content: bytes) -> tuple[str, int | None]:
    """The text without its invalid bytes, and where the first of these stood."""
    try:
        return content.decode(), None
    except UnicodeDecodeError as error:
        return content.decode(errors="ignore"), error.start


def _parse(content: bytes) -> tuple[Any, int | None]:
    """The JSON value, or the reason as a string; lone surrogates and control characters are let through."""
    import orjson

    try:
        value = orjson.loads(content)
        return (NO_TEXT if isinstance(value, str) else value), None
    except orjson.JSONDecodeError:
        text, invalid = _decode(content)
    try:
        value = json.loads(text.strip("\ufeff\0 \t\r\n"), strict=False)
    except (ValueError, RecursionError):
        return BROKEN, invalid
    return (NO_TEXT if isinstance(value, str) else value), invalid


_OBJECT_START = re.compile(rb'\{\s*"')
_TURNS_START = re.compile(rb'\[\s*"')
_BETWEEN = re.compile(r'[\s,\[\]{}\x00]*(?:"[^"\\]*"\s*:[\s\[{]*)?')  # what may stand between two records
_DECODER = json.JSONDecoder(strict=False)


def _json_values(
    stream: InputStream, start: re.Pattern[bytes], limit: int
) -> Iterator[tuple[int, Any, int | None]]:
    """Yield (offset, value or reason, first invalid byte) for each value that begins with `start`.

    A value reaches to the next start; if it does not parse, following pieces are tried with it. What
    does not parse even so is one broken record, and reading goes on at the next start.
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
            yield offset, OVERSIZED, None
            continue
        yield from _first_value(offset, waiting)


def _first_value(
    offset: int, waiting: list[tuple[int, bytes | None]]
) -> Iterator[tuple[int, Any, int | None]]:
    """Take from `waiting` the pieces of its first value and yield it, then any broken rest after it."""
    joined = b""
    for taken, (_, piece) in enumerate(waiting, start=1):
        if piece is None:
            break
        joined += piece
        text, invalid = _decode(joined)
        try:
            value, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            continue
        del waiting[:taken]
        yield offset, value, invalid
        if not _BETWEEN.fullmatch(text, end):
            yield offset + len(text[:end].encode(errors="surrogatepass")), BROKEN, None
        return
    del waiting[0]
    yield offset, BROKEN, None


def _pieces(stream: InputStream, start: re.Pattern[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Cut a stream before each match of `start`; a piece of more than `limit` bytes comes as None.

    What stands before the first match is a piece only if it is more than brackets and keys.
    """
    buffer, offset = b"", 0  # `buffer` begins `offset` bytes into the stream, at `begun` unless oversized
    begun, oversized, is_first = 0, False, True
    while chunk := stream.read(MIB):
        searched = max(len(buffer) - _LOOK_BACK, 0 if is_first else 1)
        buffer += chunk
        cut = 0
        for match in start.finditer(buffer, searched):
            piece = buffer[cut : match.start()]
            if oversized or not is_first or not _is_frame(piece):
                yield begun, None if oversized else piece
            cut, oversized, is_first = match.start(), False, False
            begun = offset + cut
        offset, buffer = offset + cut, buffer[cut:]
        if len(buffer) > limit:
            oversized = True
            offset, buffer = offset + len(buffer) - _LOOK_BACK, buffer[-_LOOK_BACK:]
    if oversized or not is_first or not _is_frame(buffer):
        yield begun, None if oversized else buffer


def _is_frame(piece: bytes) -> bool:
    return _BETWEEN.fullmatch(piece.decode("utf-8-sig", errors="replace")) is not None


READERS: dict[str, Callable[[InputStream, BuildOptions], Iterator[Record]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
    "pile": read_jsonl,
    "wudao": read_wudao,
    "stc": read_stc,
}
