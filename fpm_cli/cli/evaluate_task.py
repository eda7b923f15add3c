"""`fpm evaluate qqp|tnews|TASK.toml`: score a fine-tuned run on its task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, log, show, show_json, stderr_console
from fpm_cli.cli.score_tables import confusion_table, differences_table, scores_table
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.progress_bars import StageProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fpm_cli.runs.run import Run
    from fpm_cli.tasks.definition import TaskDefinition
    from fpm_cli.tasks.examples import Example
    from fpm_cli.tasks.predictions import PredictFunction
    from fpm_cli.tasks.report import TaskReport


MAX_CONFUSION = 20  # labels; a larger matrix fits on no screen


def examples_of(task: str) -> str:
    """The help's epilog."""
    return (
        f"Examples:\n\n  fpm evaluate {task} runs/my-{task} --baseline\n\n"
        f"  fpm evaluate {task} --input test.{'tsv' if task == 'qqp' else 'json'} --submission out --json"
    )


def evaluate_task(
    context: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A fine-tuned run; by default the newest finished one of the task.",
            autocompletion=complete_run,
        ),
    ] = None,
    input_: Annotated[
        Path | None,
        typer.Option("--input", help="The file to score; by default the run's dev set."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The name of the split; by default dev, or the file's own name.")
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another run of the task to compare with (paired bootstrap); may be repeated.",
            autocompletion=complete_run,
        ),
    ] = None,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline", help="Compare with a linear n-gram model trained on the run's training files."
        ),
    ] = False,
    submission: Annotated[
        Path | None, typer.Option(help="Write the official submission file into this folder.")
    ] = None,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap", help="Search a pretraining corpus of over two million tokens for the rows."
        ),
    ] = False,
    max_bad: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_COUNT, help="Refuse a file with more rejected rows than this."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Accuracy, F1, macro precision, recall and F1 with 95 % intervals, the confusion matrix, comparisons."""
    from fpm_cli.tasks.definition import load_task
    from fpm_cli.tasks.evaluate import EvaluationRequest, evaluate
    from fpm_cli.tasks.task_run import open_task_run

    task = load_task(context.info_name or "")
    trained_for = task.predicted_by or task.name
    task_run = open_task_run(run, trained_for)
    others = [open_task_run(other, trained_for) for other in compare or ()]
    log(f"scoring {task_run.run.path}")
    request = EvaluationRequest(input_, split, max_bad, others, baseline, submission, overlap)
    with StageProgress("examples", stderr_console()) as progress:
        report = evaluate(task, task_run, request, predict_with(progress))
    for message in report.examples.rejection_messages():
        log(message)
    if as_json:
        show_json(f"evaluate-{task.name}", report.document())
    else:
        _show(report)


def predict_with(progress: StageProgress) -> "PredictFunction":
    """The function that predicts with a run, and shows how far it is."""
    from fpm_cli.tasks.predict import predict

    def predict_and_show(
        run: "Run", task: "TaskDefinition", examples: "Sequence[Example]"
    ) -> "NDArray[np.float32]":
        stage = f"predicting {task.name} with {run.path.name}"
        predicted = predict(run, task, examples, progress.reporter(stage))
        progress.update("computing intervals", 0, None)
        return predicted

    return predict_and_show


def _show(report: "TaskReport") -> None:
    examples, task = report.examples, report.task
    if report.scores:
        show(scores_table(report))
        if report.compared:
            show(differences_table(report))
        if report.scores.confusion and len(task.labels) <= MAX_CONFUSION:
            show(confusion_table(report.scores, task.labels, task.label_names))
    bad = f"{len(examples.rejected):,} of {examples.rows:,} rows rejected"
    show(f"{len(examples.examples):,} examples of {examples.path}, {bad}")
    if report.unknown_tokens is not None:
        show(f"{report.unknown_tokens:.2%} of the tokens are unknown to the run's tokenizer")
    if report.unseen:
        show(f"{report.unseen.num_seen:,} of the examples are also in the run's training files")
    if found := report.overlap:
        show(
            f"{found.whole.sum():,} of the examples are in the pretraining corpus whole, and a part of "
            f"{found.some.sum() - found.whole.sum():,} more: {found.corpus}"
        )
    if report.overlap_unknown:
        show(f"overlap with the pretraining corpus is not known: {report.overlap_unknown}")
    if task.name == "tnews" or task.append:
        show(f"appended to the texts: {', '.join(task.append) or 'nothing (no keywords)'}")
    for note in report.notes:
        show(f"note: {note}")
    if report.predictions:
        show(f"predictions: {report.predictions}")
    if submission := report.submission:
        filled = (
            f"; {submission.filled} rejected rows got the most frequent label" if submission.filled else ""
        )
        show(f"submission: {submission.path}, {submission.rows:,} rows{filled}")
