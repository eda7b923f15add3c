"""Scores a fine-tuned run on a file of its task, beside everything it may fairly be compared with."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpm_cli.errors import FpmError, MissingError, UsageError
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import Example, ReadExamples, read_examples
from fpm_cli.tasks.paper_rows import paper_rows
from fpm_cli.tasks.predictions import Predict, Predictions, predict_with, write_predictions
from fpm_cli.tasks.report import Compared, TaskReport, UnseenScores
from fpm_cli.tasks.scores import Scores, compare, score
from fpm_cli.tasks.submission import write_submission
from fpm_cli.tasks.task_run import TaskRun

Classes = NDArray[np.int64]
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Wishes:
    """What to score, and beside what.

    `file` None: the run's dev set. `split` None: `dev`, or the file's own name.
    """

    file: Path | None = None
    split: str | None = None
    max_bad: int | None = None
    others: Sequence[TaskRun] = ()
    baseline: bool = False
    submission: Path | None = None


def evaluate(task: TaskDefinition, tuned: TaskRun, wishes: Wishes, predict: Predict) -> TaskReport:
    """Predict, score, compare, and write the predictions (and the submission) down.

    Args:
        task: whose layouts the file follows; the labels must be those of the run.
        tuned: the run to score.
        wishes: on which file, beside what.
        predict: gives a run's probabilities.

    Raises:
        MissingError: there is no file to score, or none to train the baseline on.
        UsageError: a run is of another task; the split's name will not do for a file; the file has no
            labels to compare by; the task has no submission form.
        DamagedError: the file does not fit the task, or has too many bad rows.
        DivergedError: a run's weights give no numbers.
    """
    split = _split_name(wishes)
    file = wishes.file or tuned.dev_file
    if file is None:
        raise MissingError(f"{tuned.run.path} was given no dev set; score a file with --input")
    made, read = _predict_file(task, tuned, file, wishes.max_bad, predict)
    own_task = task_of_run(task, tuned)
    report = TaskReport(own_task, tuned.run, split, read, write_predictions(made, own_task, read, split))
    if wishes.submission:
        written = write_submission(task, read, made.classes.tolist(), wishes.submission)
        report = replace(report, submission=written)
    if not read.has_labels:
        if wishes.others or wishes.baseline:
            raise UsageError(f"{file} has no labels, so that nothing can be compared on it")
        return report
    training, complaints = read_training_files(task, tuned)
    compared = [
        _compared(task, read, made.classes, str(other.run.path), other_made.classes)
        for other in wishes.others
        for other_made, _ in [_predict_file(task, other, file, wishes.max_bad, predict)]
    ]
    if wishes.baseline:
        compared.append(_baseline(task, tuned, read, made.classes, training))
    paper, notes = paper_rows(task.name, split, len(read.examples))
    return replace(
        report,
        scores=_score(task, labels_of(read), made.classes),
        unseen=score_unseen(task, read, made.classes, training) if training else None,
        compared=tuple(compared),
        paper=tuple(paper),
        notes=(*notes, *complaints),
    )


def task_of_run(task: TaskDefinition, tuned: TaskRun) -> TaskDefinition:
    """The task as the run knows it, with the layouts of `task`, whose files may be others.

    Raises:
        UsageError: the run was fine-tuned for another task, or for other labels.
    """
    own = tuned.task
    if (own.name, own.labels, own.is_pair) != (task.name, task.labels, task.is_pair):
        said = f"other labels or texts of {own.name}" if own.name == task.name else f"task {own.name}"
        raise UsageError(f"{tuned.run.path} was fine-tuned for {said}, not for this {task.name}")
    return task.model_copy(update={"append": own.append})


def read_training_files(task: TaskDefinition, tuned: TaskRun) -> tuple[list[Example], list[str]]:
    """The examples that the run trained on, as far as its files are still there; and why others are not."""
    examples: list[Example] = []
    complaints = []
    for path in tuned.train_files:
        try:
            examples += read_examples(task, path).examples
        except (FpmError, OSError) as error:
            complaints.append(f"a training file could not be read: {error}")
    return examples, complaints


def score_unseen(
    task: TaskDefinition, read: ReadExamples, classes: Classes, training: Iterable[Example]
) -> UnseenScores:
    """Score the examples whose text, or pair in either order, is in none of the training examples."""
    seen = {_text_key(example) for example in training}
    is_new = np.array([_text_key(example) not in seen for example in read.examples])
    num_seen = int(np.sum(~is_new))
    if not is_new.any():
        return UnseenScores(num_seen, None)
    return UnseenScores(num_seen, _score(task, labels_of(read)[is_new], classes[is_new]))


def labels_of(read: ReadExamples) -> Classes:
    """The classes of examples that have labels, (n,)."""
    assert read.has_labels
    return np.array([example.label for example in read.examples], dtype=np.int64)


def _text_key(example: Example) -> tuple[str, ...]:
    return tuple(sorted((example.text_a, *([] if example.text_b is None else [example.text_b]))))


def _score(task: TaskDefinition, labels: Classes, classes: Classes) -> Scores:
    return score(labels, classes, len(task.labels), task.positive_class)


def _predict_file(
    task: TaskDefinition, tuned: TaskRun, file: Path, max_bad: int | None, predict: Predict
) -> tuple[Predictions, ReadExamples]:
    """Read the file as the run wants its texts, and predict."""
    own = task_of_run(task, tuned)
    read = read_examples(own, file, labels="optional", max_bad=max_bad)
    return predict_with(predict, tuned.run, own, read), read


def _compared(
    task: TaskDefinition, read: ReadExamples, classes: Classes, system: str, others: Classes
) -> Compared:
    labels = labels_of(read)
    differences = compare(labels, classes, others, len(task.labels), task.positive_class)
    return Compared(system, _score(task, labels, others), differences)


def _baseline(
    task: TaskDefinition, tuned: TaskRun, read: ReadExamples, classes: Classes, training: Sequence[Example]
) -> Compared:
    from fpm_cli.tasks.baseline import baseline_name, predict_linearly  # scikit-learn, where it is asked for

    if not training:
        raise MissingError(f"{tuned.run.path}: no training file is left that a baseline could be trained on")
    return _compared(
        task, read, classes, baseline_name(task), predict_linearly(task, training, read.examples)
    )


def _split_name(wishes: Wishes) -> str:
    if wishes.split is None:
        stem = wishes.file.stem if wishes.file else "dev"
        return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "input"
    if not _SPLIT_NAME.fullmatch(wishes.split):
        raise UsageError(f"--split {wishes.split!r}: letters, digits, dots and hyphens only")
    return wishes.split
