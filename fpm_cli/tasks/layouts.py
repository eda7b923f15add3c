"""Finds the layout that fits a file: by its first lines, its columns and whether it has labels."""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from fpm_cli.errors import DamagedError, did_you_mean
from fpm_cli.tasks.definition import Layout, TaskDefinition
from fpm_cli.tasks.rows import Line, Row, delimited_rows, json_rows, split_fields, text_lines

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
LOOKED_AT = 20  # first lines of a file without a header: one of them must have the right number of fields


@dataclass(frozen=True)
class Fit:
    """A layout, as one file follows it, and that file's rows."""

    layout: Layout
    has_labels: bool
    rows: Iterator[Row]


def fit_file(task: TaskDefinition, path: Path, *, labels_required: bool) -> Fit:
    """Open a file with the first of the task's layouts that fits.

    Raises:
        DamagedError: none does; names the columns that are missing and the nearest there are.
        OSError: the file cannot be read.
    """
    source = text_lines(path)
    head = list(islice(source, LOOKED_AT))
    first = next((line.text for line in head if line.text is not None), None)
    if first is None:
        raise DamagedError(f"{path}: {_no_text(path, head)}")
    as_json = [layout for layout in task.layouts if layout.format == "jsonl"]
    if as_json and (first.lstrip().startswith("{") or path.suffix in JSON_SUFFIXES):
        return fit_records(as_json, json_rows(path), labels_required=labels_required)
    for layout in task.layouts:
        if layout.format != "jsonl" and (fit := _fit_table(task, layout, head, source, labels_required)):
            return fit
    raise DamagedError(f"{path}: {_why_not(task, first, labels_required)}")


def fit_records(layouts: Sequence[Layout], rows: Iterator[Row], *, labels_required: bool) -> Fit:
    """The layout whose columns the first records have; without labels where none of these has one."""
    head = list(islice(rows, LOOKED_AT))
    names = {name for row in head for name in row.values or ()}
    layout = max(layouts, key=lambda layout: len(_needed(layout, names, labels_required=True)[0]))
    has_labels = labels_required or not names.isdisjoint(layout.label)
    return Fit(layout, has_labels, chain(head, rows))


def _fit_table(
    task: TaskDefinition, layout: Layout, head: list[Line], source: Iterator[Line], labels_required: bool
) -> Fit | None:
    columns = _columns(layout, head, labels_required, extra=task.append)
    if columns is None:
        return None
    place = next((i for i, name in enumerate(columns) if name in layout.label), None)

    def is_row(fields: list[str]) -> bool:
        return len(fields) == len(columns) > 1 and (place is None or task.class_of(fields[place]) is not None)

    body = chain(head, source)
    if layout.columns is None:
        body = chain((line for line in head if line is not _header(head)), source)
    rows = delimited_rows(body, columns, layout.separator, layout.quoting, is_row)
    return Fit(layout, place is not None, rows)


def _header(head: list[Line]) -> Line | None:
    return next((line for line in head if line.text is not None), None)


def _columns(
    layout: Layout, head: list[Line], labels_required: bool, extra: Sequence[str]
) -> tuple[str, ...] | None:
    """The columns of the file if it follows this layout."""
    if layout.columns is None:
        header = _header(head)
        assert header is not None and header.text is not None
        names = tuple(_fields(header.text, layout))
        missing = _needed(layout, names, labels_required)[1]
        return None if missing or not set(extra) <= set(names) else names
    sizes = {len(_fields(line.text, layout)) for line in head if line.text is not None}
    if len(layout.columns) in sizes:
        return layout.columns
    unlabelled = tuple(name for name in layout.columns if name not in layout.label)
    return unlabelled if not labels_required and len(unlabelled) in sizes else None


def _fields(text: str, layout: Layout) -> list[str]:
    try:
        return [field.strip() for field in split_fields(text, layout.separator, layout.quoting)]
    except csv.Error:
        return []


def _needed(
    layout: Layout, names: Collection[str], labels_required: bool
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Of the columns that the layout needs: those there are, and the alternatives of each that is missing."""
    needed = [layout.text_a, *([layout.text_b] if layout.text_b else [])]
    needed += [layout.label] if labels_required else []
    found = [next((name for name in wanted if name in names), None) for wanted in needed]
    missing = [wanted for wanted, name in zip(needed, found, strict=True) if name is None]
    return [name for name in found if name is not None], missing


def _why_not(task: TaskDefinition, first: str, labels_required: bool) -> str:
    """What the nearest layout misses in the file's first line."""
    tables = [layout for layout in task.layouts if layout.format != "jsonl"]
    with_header = [layout for layout in tables if layout.columns is None]
    if not with_header:
        sizes = " or ".join(str(len(layout.columns or ())) for layout in tables)
        if not sizes:
            return f"task {task.name} reads JSON lines only, and this file is none"
        found = max(len(_fields(first, layout)) for layout in tables)
        return f"its rows have {found} fields, and those of task {task.name} have {sizes}"

    def nearness(layout: Layout) -> tuple[int, int]:
        names = _fields(first, layout)
        return len(_needed(layout, names, labels_required)[0]), len(names)

    layout = max(with_header, key=nearness)
    names = _fields(first, layout)
    missing = _needed(layout, names, labels_required)[1] or [(name,) for name in task.append]
    absent = missing[0][0]
    hint = did_you_mean(absent, names) or f"; its columns are {', '.join(repr(n[:40]) for n in names[:8])}"
    return f"no column {' and no '.join(repr(wanted[0]) for wanted in missing)} for task {task.name}{hint}"


def _no_text(path: Path, head: list[Line]) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        return "this is UTF-16; save it as UTF-8"
    return f"line {head[0].number}: {head[0].reason}" if head else "no rows"
