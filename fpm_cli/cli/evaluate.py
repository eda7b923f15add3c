"""`fpm evaluate`: score a run."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, log, show, show_json, stderr_console
from fpm_cli.cli.evaluate_suite import evaluate_suite
from fpm_cli.cli.evaluate_suite import examples_of as examples_of_suite
from fpm_cli.cli.evaluate_task import evaluate_task, examples_of
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.errors import UsageError
from fpm_cli.progress_bars import StageProgress
from fpm_cli.runs.find import newest_run
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import task_names
from fpm_cli.tasks.suite import suite_names

if TYPE_CHECKING:
    from fpm_cli.inference.trained_model import TrainedModel

PAPER_TASKS = ("qqp", "tnews")  # with a help page of their own; the other tasks share one of these


class TasksAndFiles(TyperGroup):
    """One command per task of fpm; a TOML file in place of a command is a task of the user's own."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; other tasks and TOML files are found in `info_name` by the same one."""
        known = super().get_command(ctx, cmd_name)
        is_task = cmd_name in task_names() or cmd_name.endswith(".toml")
        return self.commands[PAPER_TASKS[0]] if known is None and is_task else known


app = typer.Typer(
    cls=TasksAndFiles,
    help=(
        "Score a run on a task, runs on a suite (glue, clue), or a run as a language model (lm). "
        f"Tasks: {', '.join(task_names())}, or TASK.toml."
    ),
    no_args_is_help=True,
)
for name in PAPER_TASKS:
    app.command(name, epilog=examples_of(name))(evaluate_task)
for name in suite_names():
    app.command(name, epilog=examples_of_suite(name))(evaluate_suite)


@app.command(
    "lm",
    epilog="Examples:\n\n  fpm evaluate lm runs/CPM-X-L-proxy\n\n  fpm evaluate lm --max-samples 64 --json",
)
def evaluate_lm(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder; by default the newest in runs/.", autocompletion=complete_run),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Score the first N samples only.")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Score on this corpus; by default the corpus that the run was trained on."),
    ] = None,
    pseudo_likelihood: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_COUNT, help="A BERT: also the pseudo-likelihood of the first N sentences."
        ),
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(
            metavar="TASKS",
            help="A GPT: score it on tasks of lm-eval instead (YAML files, folders, names; comma-separated).",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Loss, perplexity, bits per byte and character on the validation text of the run's corpus."""
    if harness is not None and (corpus is not None or pseudo_likelihood is not None):
        raise UsageError("--harness scores on tasks of lm-eval alone: without --corpus, --pseudo-likelihood")
    from fpm_cli.accounting.inference import scoring_memory
    from fpm_cli.inference.language_model import score_language_model
    from fpm_cli.inference.trained_model import load_trained_model

    opened = Run.open(run) if run else newest_run(finished=True)
    log(f"scoring {opened.path}")
    trained = load_trained_model(opened, corpus, plan=scoring_memory)
    if harness is not None:
        _evaluate_with_harness(trained, harness, max_samples, as_json=as_json)
        return
    with StageProgress("samples", stderr_console()) as progress:
        score = score_language_model(trained, max_samples=max_samples, report=progress.reporter("scoring"))
    values = asdict(score)
    if pseudo_likelihood is not None:
        from fpm_cli.inference.pseudo_likelihood import score_pseudo_likelihood

        with StageProgress("sentences", stderr_console()) as progress:
            report = progress.reporter("masking word by word")
            pseudo = score_pseudo_likelihood(trained, max_sentences=pseudo_likelihood, report=report)
        values |= asdict(pseudo)
    if as_json:
        show_json("evaluate-lm", {**_about(trained), **values})
        return
    table = Table("measure", "value", title=_title(trained))
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _number(value))
    below = score.unigram_entropy - score.loss
    table.add_row("below the unigram level by", f"{below:.4f} nats")
    show(table)


def _evaluate_with_harness(
    trained: "TrainedModel", tasks: str, max_samples: int | None, *, as_json: bool
) -> None:
    from fpm_cli.inference.harness import score_with_harness

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UsageError("--harness: name a task")
    with StageProgress("requests", stderr_console()) as progress:
        scores = score_with_harness(trained, names, progress.update, max_examples=max_samples)
    if as_json:
        show_json("evaluate-lm", {**_about(trained), "harness": [asdict(score) for score in scores]})
        return
    table = Table("task", "metric", title=_title(trained))
    for name in ("value", "standard error", "examples", "few-shot"):
        table.add_column(name, justify="right")
    for score in scores:
        metric = score.metric if score.filter == "none" else f"{score.metric} ({score.filter})"
        numbers = (score.value, score.stderr, score.num_examples, score.num_fewshot)
        table.add_row(score.task, metric, *map(_number, numbers))
    show(table)


def _about(trained: "TrainedModel") -> dict[str, Any]:
    return {
        "run": str(trained.run.path),
        "model": trained.config.name,
        "step": trained.step,
        "task": "lm",
    }


def _title(trained: "TrainedModel") -> str:
    return f"{trained.config.name}, step {trained.step}: {trained.run.path}"


def _number(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
    return "-" if value is None else f"{value}"
