"""Reads a task's examples: every row becomes an example, or a rejected row with its line and the reason."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fpm_cli.errors import DamagedError, MissingError, UsageError, did_you_mean
from fpm_cli.tasks.definition import Layout, TaskDefinition
from fpm_cli.tasks.hf_dataset import open_dataset
from fpm_cli.tasks.match_layout import OpenedFile, match_file

NUM_LISTED = 5  # rejected rows that a message lists


@dataclass(frozen=True, slots=True)
class Example:
    """One or more texts; `label` is the class or the value, or None without one. Lines count from 1."""

    id: str
    text_a: str
    text_b: str | None
    label: int | float | None
    file: str
    line: int
    more_texts: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts in order."""
        return (self.text_a, *([] if self.text_b is None else [self.text_b]), *self.more_texts)

    def swapped(self) -> "Example":
        """The pair in the other order."""
        assert self.text_b is not None
        return replace(self, text_a=self.text_b, text_b=self.text_a)


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that cannot be used. Its id is kept where it can be read: a submission needs every row."""

    file: str
    line: int
    reason: str
    id: str | None = None

    def __str__(self) -> str:
        return f"{self.file}: line {self.line}: {self.reason}"


@dataclass(frozen=True)
class ReadExamples:
    """The content of a file: each row is an example or rejected. Blank lines do not count as rows."""

    path: Path
    examples: tuple[Example, ...]
    rejected: tuple[RejectedRow, ...]
    has_labels: bool

    @property
    def rows(self) -> int:
        """How many rows there were."""
        return len(self.examples) + len(self.rejected)

    def rejection_messages(self) -> list[str]:
        """Log lines: the first rejected rows, and how many more there are; empty if there are none."""
        more = len(self.rejected) - NUM_LISTED
        shown = [f"rejected {bad}" for bad in self.rejected[:NUM_LISTED]]
        return [*shown, f"rejected {more} more rows of {self.path}"] if more > 0 else shown


def read_examples(
    task: TaskDefinition,
    path: str | Path,
    *,
    labels: Literal["required", "optional"] = "required",
    max_bad: int | None = None,
) -> ReadExamples:
    """Read one file, or a data set of the `datasets` library, with the first layout that matches.

    Args:
        task: its labels and layouts.
        path: a CSV, TSV or JSON-lines file; a folder that `save_to_disk` wrote (of one split:
            `DIR/validation`); or `NAME:SPLIT`, `NAME:CONFIGURATION:SPLIT` of a data set in the cache.
        labels: `optional` also reads a file without labels, as test sets are.
        max_bad: refuse the file if more rows than this are rejected; None: any number but all.

    Raises:
        MissingError: the file or data set does not exist.
        DamagedError: no layout matches, too many rows are rejected, or none is accepted.
        UsageError: `task.append` names a column that the file does not have.
    """
    path = Path(path)
    required = labels == "required"
    if path.is_file():
        opened = match_file(task, path, labels_required=required)
    else:
        dataset = open_dataset(task, path, labels_required=required)
        if dataset is None:
            raise MissingError(f"{path}: no such file")
        opened = dataset
    read = _read(task, path, opened)
    _refuse(read, max_bad)
    return read


def _read(task: TaskDefinition, path: Path, opened: OpenedFile) -> ReadExamples:
    examples: list[Example] = []
    rejected: list[RejectedRow] = []
    for number, row in enumerate(opened.rows):
        identity = _identity(row.values or {}, opened.layout)
        try:
            if row.values is None:
                raise _RowError(row.reason)
            layout = opened.layout
            text_a = _mark_spans(_text(row.values, layout.text_a, layout), row.values, layout)
            text_b = _text(row.values, layout.text_b, layout) if layout.text_b else None
            more = tuple(_text(row.values, (name,), layout) for name in layout.more_texts)
            text_a = " ".join([text_a, *(_appended(row.values, name) for name in task.append)]).rstrip()
            label = _label(task, row.values, layout) if opened.has_labels else None
        except _RowError as reason:
            rejected.append(RejectedRow(path.name, row.line, str(reason), identity))
        else:
            example_id = str(number) if identity is None else identity
            examples.append(Example(example_id, text_a, text_b, label, path.name, row.line, more))
    return ReadExamples(path, tuple(examples), tuple(rejected), opened.has_labels)


def _refuse(read: ReadExamples, max_bad: int | None) -> None:
    bad = len(read.rejected)
    if read.rows == 0:
        raise DamagedError(f"{read.path}: no rows")
    which = f"{read.path}: {bad} of {read.rows} rows rejected"
    first = "; ".join(f"line {r.line}: {r.reason}" for r in read.rejected[:NUM_LISTED])
    if not read.examples:
        raise DamagedError(f"{which}, so none is left; {first}")
    if max_bad is not None and bad > max_bad:
        raise DamagedError(f"{which}, and --max-bad allows {max_bad}; {first}")


class _RowError(Exception):
    """Why a row is rejected."""


def _find(values: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of these columns that the row has."""
    for name in names:
        if name in values:
            return values[name]
    raise _RowError(f"no {names[0]}{did_you_mean(names[0], values)}")


def _text(values: dict[str, Any], names: tuple[str, ...], layout: Layout) -> str:
    text = _find(values, names)
    if isinstance(text, list) and layout.join is not None and all(isinstance(part, str) for part in text):
        text = layout.join.join(text)
    if not isinstance(text, str):
        raise _RowError(f"{names[0]} is not a text but {_short(text)}")
    if not text.strip():
        raise _RowError(f"{names[0]} is empty")
    return text if layout.marks else text.strip()  # the indices of marks count from the column's beginning


def _mark_spans(text: str, values: dict[str, Any], layout: Layout) -> str:
    insertions: list[tuple[int, int, str]] = []
    for order, mark in enumerate(layout.marks):
        span, index = _find(values, (mark.span,)), _find(values, (mark.index,))
        index = int(index) if isinstance(index, str) and index.strip().isdecimal() else index
        if not isinstance(span, str) or isinstance(index, bool) or not isinstance(index, int):
            raise _RowError(f"{mark.span} and {mark.index} are not a text and its position")
        if index < 0 or text[index : index + len(span)] != span or not span:
            raise _RowError(f"{mark.span} {_short(span)} is not at {mark.index} {index} of the text")
        insertions += [(index, order, mark.left), (index + len(span), -order, mark.right)]
    for position, _, inserted in sorted(insertions, reverse=True):
        text = text[:position] + inserted + text[position:]
    return text.strip()


def _appended(values: dict[str, Any], name: str) -> str:
    if name not in values:
        raise UsageError(f"rows have no column {name!r} to append{did_you_mean(name, values)}")
    value = values[name]
    return value.strip() if isinstance(value, str) else ""


def _label(task: TaskDefinition, values: dict[str, Any], layout: Layout) -> int | float:
    value = _find(values, layout.label)
    if isinstance(value, bool) and task.class_of(str(value).lower()) is not None:
        value = str(value).lower()  # JSON's true and false, as some files write CLUEWSC's labels
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _RowError(f"{layout.label[0]} is not a label but {_short(value)}")
    written = str(value).strip()
    if not written:
        raise _RowError(f"{layout.label[0]} is empty")
    if written in task.unlabelled:
        raise _RowError("no gold label")
    if task.value_range is not None:
        return _value(written, task.value_range)
    known = task.class_of(written)
    if known is None:
        labels = ", ".join(task.labels[:15]) + (", ..." if len(task.labels) > 15 else "")
        hint = did_you_mean(written, (*task.labels, *task.label_names)) or f": {labels}"
        raise _RowError(f"label {_short(written)} is not one of the task's{hint}")
    return known


def _value(written: str, value_range: tuple[float, float]) -> float:
    try:
        value = float(written)
    except ValueError:
        value = float("nan")
    if not value_range[0] <= value <= value_range[1]:
        raise _RowError(f"{_short(written)} is not a number from {value_range[0]:g} to {value_range[1]:g}")
    return value


def _identity(values: dict[str, Any], layout: Layout) -> str | None:
    value = next((values[name] for name in layout.id if name in values), None)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
