"""Opens data sets of the `datasets` library, saved in a folder or in its cache; nothing is downloaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fpm_cli.corpus.hf import load_splits
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.tasks.definition import Layout, TaskDefinition
from fpm_cli.tasks.match_layout import OpenedFile, match_records
from fpm_cli.tasks.rows import Row, flatten


def open_dataset(task: TaskDefinition, path: Path, *, labels_required: bool) -> OpenedFile | None:
    """Open a saved folder, or `NAME:SPLIT` in the cache; None if the path names neither.

    Raises:
        MissingError: the folder or the cache holds no such data set.
        UsageError: it has several splits and none is named.
        DamagedError: it has no labels and they are required.
    """
    name, _, split = path.as_posix().rpartition(":")
    if not path.is_dir() and not name:
        return None
    splits = load_splits(str(path) if path.is_dir() else name)
    if not path.is_dir():
        splits = {key: rows for key, rows in splits.items() if key.endswith(f"/{split}")}
        if not splits:
            raise MissingError(f"data set {name} has no split {split!r}")
    if len(splits) > 1:
        named = ", ".join(str(path / key.rpartition("/")[2]) for key in splits)
        raise UsageError(f"{path} has several splits; name one: {named}")
    (data,) = splits.values()
    labels = _class_names(data, task.layouts)
    rows = _rows(data, labels)
    opened = match_records(_record_layouts(task), rows, labels_required=labels_required)
    if labels_required and not any(column in data.column_names for column in opened.layout.label):
        raise DamagedError(
            f"{path}: no column {opened.layout.label[0]!r}; it has {', '.join(data.column_names)}"
        )
    return opened


def _record_layouts(task: TaskDefinition) -> list[Layout]:
    return [layout for layout in task.layouts if layout.format == "jsonl"] or list(task.layouts)


def _class_names(data: Any, layouts: tuple[Layout, ...]) -> dict[str, list[str]]:
    """The class names of each label column whose values are class indices."""
    columns = {name for layout in layouts for name in layout.label} & set(data.column_names)
    return {name: list(held.names) for name in columns if hasattr(held := data.features[name], "names")}


def _rows(data: Any, labels: dict[str, list[str]]) -> Iterator[Row]:
    for number, values in enumerate(data, start=1):
        for column, names in labels.items():
            label = values[column]
            if label is None or label < 0:  # how the library marks a test set's missing labels
                del values[column]
            else:
                values[column] = names[label]
        yield Row(number, flatten(values))
