"""Scores a fine-tuned run on a file of its task, and compares it with other systems on the same examples."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpm_cli.errors import FpmError, MissingError, UsageError
from fpm_cli.tasks.correlation import compare_values, score_values
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import Example, ReadExamples, read_examples
from fpm_cli.tasks.overlap import Overlap, find_overlap
from fpm_cli.tasks.paper_rows import paper_rows
from fpm_cli.tasks.predictions import PredictFunction, Predictions, predict_examples, write_predictions
from fpm_cli.tasks.report import ComparedSystem, TaskReport, UnseenScores
from fpm_cli.tasks.scores import Difference, Scores, compare, score
from fpm_cli.tasks.submission import write_submission
from fpm_cli.tasks.task_run import TaskRun
from fpm_cli.tasks.unknown_tokens import unknown_token_share

Predicted = NDArray[np.int64] | NDArray[np.float64]  # classes or values, (n,)
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class EvaluationRequest:
    """What to score a run on, and what to compare it with."""

    file: Path | None = None  # None: the run's dev set
    split: str | None = None  # the split's name; None: `dev`, or the file's own name
    max_bad: int | None = None  # rejected rows that are accepted; None: any number
    others: Sequence[TaskRun] = ()  # other runs to compare with
    baseline: bool = False  # compare with a linear model
    submission: Path | None = None  # the folder of the official submission file
    overlap: bool = False  # search a pretraining corpus of any size for the rows


def evaluate(
    task: TaskDefinition, task_run: TaskRun, request: EvaluationRequest, predict: PredictFunction
) -> TaskReport:
    """Predict, score and compare; write the predictions and the submission.

    Args:
        task: whose layouts the file follows; its labels must be those of the run.
        task_run: the run to score.
        request: which file to score, and the systems to compare with.
        predict: gives the outputs of a run.

    Raises:
        MissingError: there is no file to score, or none to train the baseline on.
        UsageError: a run belongs to another task; the split's name cannot be part of a file name; the file
            has no labels to compare by; the task has no submission format.
        DamagedError: the file does not follow the task, or has too many bad rows.
        DivergedError: a run predicts values that are not numbers.
    """
    split = _split_name(request)
    file = request.file or task_run.dev_file
    if file is None:
        raise MissingError(f"{task_run.run.path} was given no dev set; score a file with --input")
    predictions, examples = _predict_file(task, task_run, file, request.max_bad, predict)
    run_task = task_of_run(task, task_run)
    path, notes = _write_predictions(predictions, examples, split)
    unknown = unknown_token_share(task_run.run, examples)
    overlap = find_overlap(task_run.run, examples.examples, any_size=request.overlap)
    report = TaskReport(
        run_task,
        task_run.run,
        split,
        examples,
        path,
        notes=notes,
        unknown_tokens=unknown,
        overlap=overlap if isinstance(overlap, Overlap) else None,
        overlap_unknown=overlap if isinstance(overlap, str) else None,
    )
    if request.submission:
        submission = write_submission(task, examples, predictions.written(), request.submission)
        report = replace(report, submission=submission)
    if not examples.has_labels:
        if request.others or request.baseline:
            raise UsageError(f"{file} has no labels, so nothing can be compared on it")
        return report
    training, messages = read_training_files(task, task_run)
    compared = [
        _compared_run(task, other, predictions, examples, request, predict) for other in request.others
    ]
    if request.baseline:
        compared.append(_baseline(task, task_run, examples, predictions.predicted, training))
    paper, paper_notes = paper_rows(task.name, split, len(examples.examples))
    return replace(
        report,
        scores=score_task(task, labels_of(examples), predictions.predicted),
        unseen=score_unseen(task, examples, predictions.predicted, training) if training else None,
        outside_corpus=_score_outside(task, examples, predictions.predicted, report.overlap),
        compared=tuple(compared),
        paper=tuple(paper),
        notes=(*notes, *paper_notes, *messages),
    )


def task_of_run(task: TaskDefinition, task_run: TaskRun) -> TaskDefinition:
    """The task of a run, with the layouts of `task`, which may read other files.

    Raises:
        UsageError: the run was fine-tuned for another task, or for other labels.
    """
    own = task_run.task
    names = {task.name, task.predicted_by}
    same_form = (own.labels, own.value_range, own.num_texts) == (
        task.labels,
        task.value_range,
        task.num_texts,
    )
    if own.name not in names or not same_form:
        other = f"other labels or texts of {own.name}" if own.name in names else f"task {own.name}"
        raise UsageError(f"{task_run.run.path} was fine-tuned for {other}, not for this {task.name}")
    return task.model_copy(update={"append": own.append})


def read_training_files(task: TaskDefinition, task_run: TaskRun) -> tuple[list[Example], list[str]]:
    """The examples of the run's training files that can still be read, and a message for each that cannot."""
    examples: list[Example] = []
    messages = []
    for path in task_run.train_files:
        try:
            examples += read_examples(task, path).examples
        except (FpmError, OSError) as error:
            messages.append(f"a training file could not be read: {error}")
    return examples, messages


def score_unseen(
    task: TaskDefinition, examples: ReadExamples, predicted: Predicted, training: Iterable[Example]
) -> UnseenScores:
    """Score the examples whose text, or pair in either order, is in none of the training examples."""
    seen = {_text_key(example) for example in training}
    is_new = np.array([_text_key(example) not in seen for example in examples.examples])
    num_seen = int(np.sum(~is_new))
    if not is_new.any():
        return UnseenScores(num_seen, None)
    return UnseenScores(num_seen, score_task(task, labels_of(examples)[is_new], predicted[is_new]))


def _score_outside(
    task: TaskDefinition, examples: ReadExamples, predicted: Predicted, overlap: Overlap | None
) -> Scores | None:
    """Score the examples of which no part is in the pretraining corpus; None without one, or without any."""
    if overlap is None or overlap.some.all():
        return None
    return score_task(task, labels_of(examples)[~overlap.some], predicted[~overlap.some])


def labels_of(examples: ReadExamples) -> Predicted:
    """The classes or values of labelled examples, (n,)."""
    assert examples.has_labels
    labels = np.array([example.label for example in examples.examples])
    return labels if labels.dtype.kind == "f" else labels.astype(np.int64)


def _text_key(example: Example) -> tuple[str, ...]:
    return tuple(sorted(example.texts))


def score_task(task: TaskDefinition, labels: Predicted, predicted: Predicted) -> Scores:
    """The metrics of a task: of classes, or of values."""
    if task.is_regression:
        return score_values(labels.astype(float), predicted.astype(float))
    return score(labels.astype(np.int64), predicted.astype(np.int64), len(task.labels), task.positive_class)


def compare_task(
    task: TaskDefinition, labels: Predicted, predicted: Predicted, others: Predicted
) -> dict[str, Difference]:
    """By metric, the first predictions' score minus the others', by a paired bootstrap."""
    if task.is_regression:
        return compare_values(labels.astype(float), predicted.astype(float), others.astype(float))
    ours, theirs = predicted.astype(np.int64), others.astype(np.int64)
    return compare(labels.astype(np.int64), ours, theirs, len(task.labels), task.positive_class)


def _predict_file(
    task: TaskDefinition, task_run: TaskRun, file: Path, max_bad: int | None, predict: PredictFunction
) -> tuple[Predictions, ReadExamples]:
    run_task = task_of_run(task, task_run)
    examples = read_examples(run_task, file, labels="optional", max_bad=max_bad)
    return predict_examples(predict, task_run.run, run_task, examples), examples


def _write_predictions(
    predictions: Predictions, examples: ReadExamples, split: str
) -> tuple[Path | None, tuple[str, ...]]:
    """Where the predictions were written; no path but a note where the run folder cannot be written to."""
    try:
        return write_predictions(predictions, examples, split), ()
    except OSError as error:
        return None, (f"the predictions were not kept: {error.strerror or error}: {error.filename}",)


def _compared_run(
    task: TaskDefinition,
    other: TaskRun,
    predictions: Predictions,
    examples: ReadExamples,
    request: EvaluationRequest,
    predict: PredictFunction,
) -> ComparedSystem:
    other_predictions, _ = _predict_file(task, other, examples.path, request.max_bad, predict)
    return _compared(task, examples, predictions.predicted, str(other.run.path), other_predictions.predicted)


def _baseline(
    task: TaskDefinition,
    task_run: TaskRun,
    examples: ReadExamples,
    predicted: Predicted,
    training: Sequence[Example],
) -> ComparedSystem:
    from fpm_cli.tasks.baseline import baseline_name, predict_with_baseline  # imports scikit-learn

    if not training:
        raise MissingError(f"{task_run.run.path}: no training file is left to train a baseline on")
    others = predict_with_baseline(task, training, examples.examples)
    return _compared(task, examples, predicted, baseline_name(task), others)


def _compared(
    task: TaskDefinition, examples: ReadExamples, predicted: Predicted, system: str, others: Predicted
) -> ComparedSystem:
    labels = labels_of(examples)
    differences = compare_task(task, labels, predicted, others)
    return ComparedSystem(system, score_task(task, labels, others), differences)


def _split_name(request: EvaluationRequest) -> str:
    if request.split is None:
        stem = request.file.stem if request.file else "dev"
        return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "input"
    if not _SPLIT_NAME.fullmatch(request.split):
        raise UsageError(f"--split {request.split!r}: letters, digits, dots and hyphens only")
    return request.split
