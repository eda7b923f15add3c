"""`fpm evaluate glue|clue`: score the runs of a suite, and average them as the leaderboard does."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, log, show, show_json, stderr_console
from fpm_cli.cli.evaluate_task import predict_with
from fpm_cli.progress_bars import StageProgress

if TYPE_CHECKING:
    from fpm_cli.tasks.evaluate_suite import SuiteReport


def examples_of(suite: str) -> str:
    """The help's epilog."""
    run = "my-qqp" if suite == "glue" else "my-tnews"
    return f"Examples:\n\n  fpm evaluate {suite} runs/{run}\n\n  fpm evaluate {suite} runs/{run} --json"


def evaluate_suite(
    context: typer.Context,
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Fine-tuned runs, or a folder of them as `fpm finetune glue` makes it.",
            autocompletion=complete_run,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="The suite's folder; by default the files beside each run's dev set."),
    ] = None,
    submission: Annotated[
        Path | None, typer.Option(help="Write the official files of the test sets into this folder.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Each task's leaderboard metrics on its dev set, and their average with a 95 % interval."""
    from fpm_cli.tasks import evaluate_suite as suites
    from fpm_cli.tasks.suite import load_suite

    suite = load_suite(context.info_name or "")
    with StageProgress("examples", stderr_console()) as progress:
        report = suites.evaluate_suite(suite, runs, predict_with(progress), data=data, submission=submission)
    for task_report in report.reports.values():
        for message in task_report.examples.rejection_messages():
            log(message)
    if as_json:
        show_json(f"evaluate-{suite.name}", report.document())
    else:
        _show(report)


def _show(report: "SuiteReport") -> None:
    table = Table("task", "run", title=f"{report.suite.name}, dev: per cent, with 95 % bootstrap intervals")
    for name in ("examples", "metrics", "score"):
        table.add_column(name, justify="right")
    for entry in report.suite.tasks:
        name = entry.task if entry.counted else f"{entry.task} (not counted)"
        if entry.task not in report.scores:
            table.add_row(name, report.missing.get(entry.task, "the file has no labels"), "", "", "")
            continue
        task_report, score = report.reports[entry.task], report.scores[entry.task]
        scores = task_report.scores
        assert scores is not None
        metrics = ", ".join(
            f"{metric.replace('_', ' ')} {100 * scores.metrics[metric]:.2f}"
            for metric in task_report.task.metrics
        )
        cells = (f"{scores.num_examples:,}", metrics, _with_interval(score.score, score.ci95))
        table.add_row(name, str(task_report.run.path), *cells)
    if report.average is not None and report.ci95 is not None:
        counted = f"{report.groups_scored} of {report.groups} counted tasks"
        table.add_row("average", counted, "", "", _with_interval(report.average, report.ci95))
    show(table)


def _with_interval(value: float, ci95: tuple[float, float]) -> str:
    return f"{100 * value:.2f} ({100 * ci95[0]:.2f} to {100 * ci95[1]:.2f})"
