"""The files that GLUE and CLUE take: one prediction for every row of the official test set."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.files import replace_text
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import ReadExamples


@dataclass(frozen=True)
class Submission:
    """A written file. `filled` of its `rows` were rejected by the reader and got the most frequent label."""

    path: Path
    rows: int
    filled: int


def write_submission(
    task: TaskDefinition, examples: ReadExamples, predictions: Sequence[str], folder: Path
) -> Submission:
    """Write the official file into `folder`: `QQP.tsv` (GLUE) or `tnews_predict.json` (CLUE).

    Args:
        task: its `submission` names the format.
        examples: the rows of the test file.
        predictions: what to write for each example, (n,).
        folder: made if it is not there.

    Raises:
        UsageError: the task has no official format.
        DamagedError: a row has no id, or the id of another row; the benchmark would refuse the file.
    """
    if task.submission is None:
        known = ", ".join(repr(known_format) for known_format in _FORMATS)
        raise UsageError(f"task {task.name} has no submission format; its TOML may name one of {known}")
    labels = {e.id: predicted for e, predicted in zip(examples.examples, predictions, strict=True)}
    most_frequent = Counter(labels.values()).most_common(1)[0][0]
    line_of = {e.id: e.line for e in examples.examples}
    for row in examples.rejected:
        if row.id is None:
            raise DamagedError(f"{row}; it has no id, so a submission would lack its row")
        labels.setdefault(row.id, most_frequent)
        line_of.setdefault(row.id, row.line)
    if len(labels) < examples.rows:
        raise DamagedError(f"{examples.path}: {examples.rows - len(labels)} rows have the id of another row")
    name, format_rows = _FORMATS[task.submission]
    ordered = sorted(labels, key=line_of.__getitem__)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (task.submission_file or name.format(TASK=task.name.upper(), task=task.name))
    replace_text(path, format_rows([(identity, labels[identity]) for identity in ordered]))
    return Submission(path, examples.rows, len(examples.rejected))


Rows = list[tuple[str, str]]  # id, label


def _glue(rows: Rows) -> str:
    return "index\tprediction\n" + "".join(f"{identity}\t{label}\n" for identity, label in rows)


def _clue(rows: Rows) -> str:
    return "".join(json.dumps({"id": _number(identity), "label": label}) + "\n" for identity, label in rows)


def _number(identity: str) -> int | str:
    return int(identity) if identity.isascii() and identity.isdecimal() else identity


_FORMATS: dict[str, tuple[str, Callable[[Rows], str]]] = {
    "glue": ("{TASK}.tsv", _glue),
    "clue": ("{task}_predict.json", _clue),
}
