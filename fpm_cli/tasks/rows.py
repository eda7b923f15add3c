"""Rows of task files, one at a time: what each column holds, or why the row cannot be read, and its line.

Bytes are split at \\n alone, so that U+2028 and other separators stay inside a field, and a row that
cannot be read costs no other row.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fpm_cli.corpus.streams import lines

MAX_ROW_BYTES = 1 << 20
MAX_ROW_LINES = 64  # of a quoted field that goes over several lines
NUL, BOM = "\0", "\ufeff"


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of one row by name; without them `reason` says why. Lines count from 1."""

    line: int
    values: dict[str, Any] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One physical line without its end; without text, `reason` says why."""

    number: int
    text: str | None
    reason: str = ""


def text_lines(path: Path) -> Iterator[Line]:
    """The lines of a UTF-8 file that are not blank, without a byte order mark.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
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


def json_rows(path: Path) -> Iterator[Row]:
    """One JSON object a line; blanks around its keys do not count."""
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
            yield Row(line.number, {key.strip(): held for key, held in value.items()})
        else:
            yield Row(line.number, None, "not a JSON object")


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
    """Rows of a table. A quoted field may go over several lines.

    A quote that opens and does not close spoils its own line only: `is_row` tells whether the fields
    of a following line are a row by themselves, at which the search for the closing quote ends.
    """
    waiting: deque[Line] = deque()
    while line := waiting.popleft() if waiting else next(source, None):
        if line.text is None:
            yield Row(line.number, None, line.reason)
            continue
        taken: list[Line] = []
        try:
            if quoting:
                fed = _continued(
                    line.text, source, waiting, taken, lambda text: _is_row(text, separator, is_row)
                )
                fields = next(csv.reader(fed, delimiter=separator, strict=True), [])
            else:
                fields = line.text.split(separator)
        except csv.Error as error:
            waiting.extendleft(reversed(taken))
            yield Row(line.number, None, f"quotes are not balanced ({error})")
            continue
        if len(fields) == len(columns):
            yield Row(line.number, dict(zip(columns, fields, strict=True)))
        else:
            waiting.extendleft(reversed(taken))
            yield Row(line.number, None, f"{len(fields)} fields instead of {len(columns)}")


def _continued(
    first: str,
    source: Iterator[Line],
    waiting: deque[Line],
    taken: list[Line],
    ends: Callable[[str], bool],
) -> Iterator[str]:
    """Feed the csv reader one line and, as long as a quote is open, the next; they are put into `taken`."""
    yield first + "\n"
    while len(taken) < MAX_ROW_LINES and (line := waiting.popleft() if waiting else next(source, None)):
        if line.text is None or ends(line.text):
            waiting.appendleft(line)
            return
        taken.append(line)
        yield line.text + "\n"


def _is_row(text: str, separator: str, is_row: Callable[[list[str]], bool]) -> bool:
    try:
        return is_row(split_fields(text, separator, quoting=True))
    except csv.Error:
        return False
