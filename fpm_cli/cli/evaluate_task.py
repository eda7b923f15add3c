"""`fpm evaluate qqp|tnews|TASK.toml`: score a fine-tuned run on its task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, log, show, show_json
from fpm_cli.cli.score_tables import confusion_table, differences_table, scores_table

if TYPE_CHECKING:
    from fpm_cli.tasks.report import TaskReport


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
        typer.Option(
            "--input", help="Score this file; by default the one that the run was given as its dev set."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="What to call the split; by default dev, or the file's own name.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="Another run of the task, compared in pairs on the same examples.",
            autocompletion=complete_run,
        ),
    ] = None,
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="Add a linear n-gram model trained on the run's training files."),
    ] = False,
    submission: Annotated[
        Path | None, typer.Option(help="Write the official submission file into this folder.")
    ] = None,
    max_bad: Annotated[
        int | None, typer.Option(min=0, help="Refuse the file if more rows than this cannot be used.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Accuracy, F1, macro precision, recall and F1 with 95 % intervals, the confusion matrix, comparisons."""
    from fpm_cli.tasks.definition import load_task
    from fpm_cli.tasks.evaluate import Wishes, evaluate
    from fpm_cli.tasks.predict import predict
    from fpm_cli.tasks.task_run import open_task_run

    task = load_task(context.info_name or "")
    tuned = open_task_run(run, task.name)
    others = [open_task_run(compare, task.name)] if compare else []
    log(f"scoring {tuned.run.path}")
    report = evaluate(task, tuned, Wishes(input_, split, max_bad, others, baseline, submission), predict)
    for complaint in report.read.complaints():
        log(complaint)
    if as_json:
        show_json(f"evaluate-{task.name}", report.document())
    else:
        _show(report)


def _show(report: "TaskReport") -> None:
    read, task = report.read, report.task
    if report.scores:
        show(scores_table(report))
        if report.compared:
            show(differences_table(report))
        show(confusion_table(report.scores, task.labels, task.label_names))
    bad = f"{len(read.rejected):,} of {read.rows:,} rows rejected"
    show(f"{len(read.examples):,} examples of {read.path}, {bad}")
    if report.unseen:
        show(f"{report.unseen.num_seen:,} of the examples also stand in the run's training files")
    if task.name == "tnews" or task.append:
        show(f"appended to the texts: {', '.join(task.append) or 'nothing (no keywords)'}")
    for note in report.notes:
        show(f"note: {note}")
    show(f"predictions: {report.predictions}")
    if made := report.submission:
        filled = f"; {made.filled} rejected rows have the commonest label" if made.filled else ""
        show(f"submission: {made.path}, {made.rows:,} rows{filled}")
