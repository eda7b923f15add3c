"""Reads the rows of task files one at a time: the columns, or why a row cannot be read, and its line number.

Bytes are split at \\n alone, so that U+2028 and other separators stay inside a field, and a row that
cannot be read does not affect others.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fpm_cli.streams import lines, open_input

MAX_ROW_BYTES = 1 << 20
MAX_ROW_LINES = 64  # of a quoted field that spans several lines
NUL, BOM = "\0", "\ufeff"


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of one row by name, or None and the reason. Lines count from 1."""

    line: int
    values: dict[str, Any] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end, or None and the reason."""

    number: int
    text: str | None
    reason: str = ""


def text_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file, plain or compressed, that are not blank, without a byte order mark.

    Raises:
        OSError: the file cannot be read.
    """
    number = 0
    with open_input(path) as file:
        for number, (_, content) in enumerate(lines(file, MAX_ROW_BYTES), start=1):
            if content is None:
                yield Line(number, None, f"longer than {MAX_ROW_BYTES} bytes")
                continue
            try:
                text = content.decode()
            except UnicodeDecodeError as error:
                yield Line(number, None, f"not UTF-8 at byte {error.start} of the line")
                continue
            text = (text.removeprefix(BOM) if number == 1 else text).removesuffix("\n").removesuffix("\r")
            if NUL in text:
                yield Line(number, None, "a NUL character")
            elif text.strip():
                yield Line(number, text)
        if file.defect:
            yield Line(number + 1, None, f"{file.defect.reason}: {file.defect.detail}")


def json_rows(path: Path) -> Iterator[Row]:
    """One JSON object per line; white space around its keys is removed."""
    for line in text_lines(path):
        if line.text is None:
            yield Row(line.number, None, line.reason)
            continue
        try:
            value = orjson.loads(line.text)
        except orjson.JSONDecodeError as error:
            yield Row(line.number, None, f"not JSON: {error}")
            continue
        if isinstance(value, dict):
            yield Row(line.number, flatten({key.strip(): held for key, held in value.items()}))
        else:
            yield Row(line.number, None, "not a JSON object")


def flatten(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the keys of its objects as columns of their own: `outer.inner`."""
    inner = {
        f"{outer}.{key}": held
        for outer, value in record.items()
        if isinstance(value, dict)
        for key, held in value.items()
    }
    return {**record, **inner} if inner else record


def split_fields(text: str, separator: str, quoting: bool) -> list[str]:
    """The fields of a row on one line.

    Raises:
        csv.Error: its quotes are not balanced.
    """
    if not quoting:
        return text.split(separator)
    return next(csv.reader([text], delimiter=separator, strict=True), [])


def delimited_rows(
    source: Iterator[Line],
    columns: Sequence[str],
    separator: str,
    quoting: bool,
    is_row: Callable[[list[str]], bool],
) -> Iterator[Row]:
    """Rows of a table. A quoted field may span several lines.

    An opening quote that is never closed makes only its own line unreadable: the search for the closing
    quote ends at the first line whose fields are a row by themselves (`is_row`).
    """
    pending: deque[Line] = deque()
    while line := pending.popleft() if pending else next(source, None):
        if line.text is None:
            yield Row(line.number, None, line.reason)
            continue
        consumed: list[Line] = []
        try:
            if quoting:
                csv_lines = _continued(
                    line.text, source, pending, consumed, lambda text: _is_row(text, separator, is_row)
                )
                fields = next(csv.reader(csv_lines, delimiter=separator, strict=True), [])
            else:
                fields = line.text.split(separator)
        except csv.Error as error:
            pending.extendleft(reversed(consumed))
            yield Row(line.number, None, f"quotes are not balanced ({error})")
            continue
        if len(fields) == len(columns):
            yield Row(line.number, dict(zip(columns, fields, strict=True)))
        else:
            pending.extendleft(reversed(consumed))
            yield Row(line.number, None, f"{len(fields)} fields instead of {len(columns)}")


def _continued(
    first: str,
    source: Iterator[Line],
    pending: deque[Line],
    consumed: list[Line],
    ends: Callable[[str], bool],
) -> Iterator[str]:
    """Lines for the csv reader: one and, while a quote is open, more, which are added to `consumed`."""
    yield first + "\n"
    while len(consumed) < MAX_ROW_LINES and (line := pending.popleft() if pending else next(source, None)):
        if line.text is None or ends(line.text):
            pending.appendleft(line)
            return
        consumed.append(line)
        yield line.text + "\n"


def _is_row(text: str, separator: str, is_row: Callable[[list[str]], bool]) -> bool:
    try:
        return is_row(split_fields(text, separator, quoting=True))
    except csv.Error:
        return False
