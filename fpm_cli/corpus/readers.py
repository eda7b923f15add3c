"""The sources that are files, each a stream of records; `hf.py` reads data sets."""

from collections.abc import Callable, Iterator

from fpm_cli.corpus.dialogues import read_stc
from fpm_cli.corpus.json_stream import OBJECT_START, JsonValue, json_values, parse_line
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.records import EXCLUDED, NO_TEXT, OVERSIZED, Record, decode
from fpm_cli.streams import InputStream, lines


def read_text(stream: InputStream, options: BuildOptions) -> Iterator[Record]:
    """Documents of plain text: paragraphs (a blank line ends one), lines, or the whole file."""
    start = end = num_characters = 0
    parts: list[bytes] | None = []  # None: the document is over the limit
    for offset, line in lines(stream, options.max_document_bytes):
        if options.document == "paragraph" and line is not None and not line.strip():
            if parts is None or (parts and num_characters >= options.join_characters):
                yield _text_record(start, parts)
                parts, num_characters = [], 0
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
            num_characters += len(line.decode(errors="ignore")) if options.join_characters else 1
        if options.document == "line":
            if parts is None or line is None or line.strip():
                yield _text_record(start, parts)
            parts = []
    if parts is None or parts:
        yield _text_record(start, parts)


def _text_record(start: int, parts: list[bytes] | None) -> Record:
    if parts is None:
        return Record(start, None, OVERSIZED)
    text, invalid_at, num_invalid = decode(b"".join(parts))
    return Record(
        start,
        text,
        invalid_at=None if invalid_at is None else start + invalid_at,
        num_invalid=num_invalid,
    )


def read_jsonl(stream: InputStream, options: BuildOptions) -> Iterator[Record]:
    """One JSON object per line; blank lines are no documents."""
    for offset, line in lines(stream, options.max_document_bytes):
        if line is None:
            yield Record(offset, None, OVERSIZED)
        elif line.strip():
            yield _json_record(parse_line(offset, line), options)


def read_wudao(stream: InputStream, options: BuildOptions) -> Iterator[Record]:
    """Objects of a JSON array, found one by one: title and content."""
    for item in json_values(stream, OBJECT_START, options.max_document_bytes):
        record = _json_record(item, options)
        title = item.value.get("title") if isinstance(item.value, dict) else None
        if record.text is not None and isinstance(title, str) and title.strip():
            text = f"{title}\n{record.text}"
            record = Record(
                item.offset,
                text,
                id=record.id,
                invalid_at=record.invalid_at,
                num_invalid=record.num_invalid,
            )
        yield record


def _json_record(item: JsonValue, options: BuildOptions) -> Record:
    value = item.value
    if item.reason:
        return Record(item.offset, None, item.reason)
    if not isinstance(value, dict):
        return Record(item.offset, None, NO_TEXT, keys=f"a {type(value).__name__}, not an object")
    meta = value.get("meta")
    if options.exclude_sets and isinstance(meta, dict) and meta.get("pile_set_name") in options.exclude_sets:
        return Record(item.offset, None, EXCLUDED)
    text = value.get(options.text_field)
    if not isinstance(text, str):
        return Record(item.offset, None, NO_TEXT, keys=", ".join(map(str, value)))
    identity = value.get(options.id_field) if options.id_field else None
    return Record(
        item.offset,
        text,
        id="" if identity is None else str(identity),
        invalid_at=None if item.invalid_at is None else item.offset + item.invalid_at,
        num_invalid=item.num_invalid,
    )


READERS: dict[str, Callable[[InputStream, BuildOptions], Iterator[Record]]] = {
    "text": read_text,
    "jsonl": read_jsonl,
    "pile": read_jsonl,
    "wudao": read_wudao,
    "stc": read_stc,
}
