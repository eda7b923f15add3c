"""Finds which of a task's layouts a file follows, by its first lines, its columns and its labels."""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from fpm_cli.errors import DamagedError, did_you_mean
from fpm_cli.tasks.definition import Layout, TaskDefinition
from fpm_cli.tasks.rows import Line, Row, delimited_rows, json_rows, split_fields, text_lines

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
NUM_HEAD_LINES = 20  # one of them must have the right number of fields in a file without a header


@dataclass(frozen=True)
class OpenedFile:
    """A file's rows, the layout that it follows, and whether it has labels."""

    layout: Layout
    has_labels: bool
    rows: Iterator[Row]


def match_file(task: TaskDefinition, path: Path, *, labels_required: bool) -> OpenedFile:
    """Open a file with the first of the task's layouts that it follows.

    Raises:
        DamagedError: it follows none; names the missing columns and the most similar ones.
        OSError: the file cannot be read.
    """
    source = text_lines(path)
    head = list(islice(source, NUM_HEAD_LINES))
    first = next((line.text for line in head if line.text is not None), None)
    if first is None:
        raise DamagedError(f"{path}: {_no_text(path, head)}")
    as_json = [layout for layout in task.layouts if layout.format == "jsonl"]
    if as_json and (first.lstrip().startswith("{") or path.suffix in JSON_SUFFIXES):
        return match_records(as_json, json_rows(path), labels_required=labels_required)
    for layout in task.layouts:
        if layout.format != "jsonl" and (opened := _match_table(task, layout, head, source, labels_required)):
            return opened
    raise DamagedError(f"{path}: {_why_not(task, first, labels_required)}")


def match_records(layouts: Sequence[Layout], rows: Iterator[Row], *, labels_required: bool) -> OpenedFile:
    """Choose the layout by the keys of the first records; labels are absent where no record has one."""
    head = list(islice(rows, NUM_HEAD_LINES))
    names = {name for row in head for name in row.values or ()}
    layout = max(layouts, key=lambda layout: len(_needed(layout, names, labels_required=True)[0]))
    has_labels = labels_required or not names.isdisjoint(layout.label)
    return OpenedFile(layout, has_labels, chain(head, rows))


def _match_table(
    task: TaskDefinition, layout: Layout, head: list[Line], source: Iterator[Line], labels_required: bool
) -> OpenedFile | None:
    columns = _columns(layout, head, labels_required, extra=task.append)
    if columns is None:
        return None
    label_column = next((i for i, name in enumerate(columns) if name in layout.label), None)

    def is_row(fields: list[str]) -> bool:
        return len(fields) == len(columns) > 1 and (
            label_column is None or task.class_of(fields[label_column]) is not None
        )

    body = chain(head, source)
    if layout.columns is None:
        body = chain((line for line in head if line is not _header(head)), source)
    rows = delimited_rows(body, columns, layout.separator, layout.quoting, is_row)
    return OpenedFile(layout, label_column is not None, rows)


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
    """Of the columns that the layout needs: the names present, and the alternatives of each missing one."""
    needed = [layout.text_a, *([layout.text_b] if layout.text_b else []), *((n,) for n in layout.more_texts)]
    needed += [(name,) for mark in layout.marks for name in (mark.span, mark.index)]
    needed += [layout.label] if labels_required else []
    matched = [next((name for name in wanted if name in names), None) for wanted in needed]
    missing = [wanted for wanted, name in zip(needed, matched, strict=True) if name is None]
    return [name for name in matched if name is not None], missing


def _why_not(task: TaskDefinition, first: str, labels_required: bool) -> str:
    """What the file's first line lacks of the most similar layout."""
    tables = [layout for layout in task.layouts if layout.format != "jsonl"]
    with_header = [layout for layout in tables if layout.columns is None]
    if not with_header:
        sizes = " or ".join(str(len(layout.columns or ())) for layout in tables)
        if not sizes:
            return f"task {task.name} reads JSON lines only, and this file is not JSON"
        num_fields = max(len(_fields(first, layout)) for layout in tables)
        return f"its rows have {num_fields} fields, and those of task {task.name} have {sizes}"

    def similarity(layout: Layout) -> tuple[int, int]:
        names = _fields(first, layout)
        return len(_needed(layout, names, labels_required)[0]), len(names)

    layout = max(with_header, key=similarity)
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
