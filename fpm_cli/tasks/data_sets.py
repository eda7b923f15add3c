"""Task examples in data sets of the `datasets` library: saved folders or its cache; nothing is fetched."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fpm_cli.corpus.hf import load_splits
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.tasks.definition import Layout, TaskDefinition
from fpm_cli.tasks.layouts import Fit, fit_records
from fpm_cli.tasks.rows import Row


def find_data_set(task: TaskDefinition, path: Path, *, labels_required: bool) -> Fit | None:
    """The rows of a saved folder, or of `NAME:SPLIT` in the cache; None if the path means neither.

    Raises:
        MissingError: the folder holds no data set, or the cache has no such one.
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
    fit = fit_records(_for_records(task), rows, labels_required=labels_required)
    if labels_required and not any(column in data.column_names for column in fit.layout.label):
        raise DamagedError(
            f"{path}: no column {fit.layout.label[0]!r}; it has {', '.join(data.column_names)}"
        )
    return fit


def _for_records(task: TaskDefinition) -> list[Layout]:
    return [layout for layout in task.layouts if layout.format == "jsonl"] or list(task.layouts)


def _class_names(data: Any, layouts: tuple[Layout, ...]) -> dict[str, list[str]]:
    """The names behind the numbers of each label column that has them."""
    columns = {name for layout in layouts for name in layout.label} & set(data.column_names)
    return {name: list(held.names) for name in columns if hasattr(held := data.features[name], "names")}


def _rows(data: Any, labels: dict[str, list[str]]) -> Iterator[Row]:
    for number, values in enumerate(data, start=1):
        for column, names in labels.items():
            held = values[column]
            if held is None or held < 0:  # how the library marks a test set's missing labels
                del values[column]
            else:
                values[column] = names[held]
        yield Row(number, values)
