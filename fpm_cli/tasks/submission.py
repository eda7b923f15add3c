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
    """A written file. `filled` of its `rows` were rejected by the reader and have the commonest label."""

    path: Path
    rows: int
    filled: int


def write_submission(
    task: TaskDefinition, read: ReadExamples, predictions: Sequence[int], folder: Path
) -> Submission:
    """Write the official file into `folder`: `QQP.tsv` (GLUE) or `tnews_predict.json` (CLUE).

    Args:
        task: whose `submission` names the form.
        read: the rows of the test file.
        predictions: the class of each example, (n,).
        folder: made if it is not there.

    Raises:
        UsageError: the task has no official form.
        DamagedError: a row has no id, or that of another row, so that the file would be refused.
    """
    if task.submission is None:
        known = ", ".join(repr(form) for form in _FORMS)
        raise UsageError(f"task {task.name} has no submission form; its TOML may name one of {known}")
    labels = {e.id: task.labels[made] for e, made in zip(read.examples, predictions, strict=True)}
    commonest = Counter(labels.values()).most_common(1)[0][0]
    places = {e.id: e.line for e in read.examples}
    for bad in read.rejected:
        if bad.id is None:
            raise DamagedError(f"{bad}; it has no id, so a submission would lack its row")
        labels.setdefault(bad.id, commonest)
        places.setdefault(bad.id, bad.line)
    if len(labels) < read.rows:
        raise DamagedError(f"{read.path}: {read.rows - len(labels)} rows have the id of another row")
    name, form = _FORMS[task.submission]
    ordered = sorted(labels, key=places.__getitem__)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name.format(TASK=task.name.upper(), task=task.name)
    replace_text(path, form([(identity, labels[identity]) for identity in ordered]))
    return Submission(path, read.rows, len(read.rejected))


Rows = list[tuple[str, str]]  # id, label


def _glue(rows: Rows) -> str:
    return "index\tprediction\n" + "".join(f"{identity}\t{label}\n" for identity, label in rows)


def _clue(rows: Rows) -> str:
    return "".join(json.dumps({"id": _number(identity), "label": label}) + "\n" for identity, label in rows)


def _number(identity: str) -> int | str:
    return int(identity) if identity.isascii() and identity.isdecimal() else identity


_FORMS: dict[str, tuple[str, Callable[[Rows], str]]] = {
    "glue": ("{TASK}.tsv", _glue),
    "clue": ("{task}_predict.json", _clue),
}
