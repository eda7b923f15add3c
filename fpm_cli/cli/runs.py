"""`fpm runs`: the runs in a folder, one in detail, several side by side; whether a run's files are intact."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.completion import complete_preset, complete_run
from fpm_cli.cli.console import JsonFlag, log, show, show_json
from fpm_cli.errors import UsageError
from fpm_cli.runs.run import RUNS

if TYPE_CHECKING:
    from fpm_cli.reports.comparison import RunComparison
    from fpm_cli.reports.run_facts import RunFacts
    from fpm_cli.reports.run_groups import Estimate, RunGroup

app = typer.Typer(help="Runs: list them, show one, compare several, verify files.", no_args_is_help=True)

SortKey = Literal["started", "name", "preset", "loss", "time"]
Folder = Annotated[Path, typer.Argument(help="A run folder.", autocompletion=complete_run)]


@app.command(
    "list",
    epilog="Examples:\n\n  fpm runs list\n\n  fpm runs list --preset CPM-X-L --finished --sort loss --json",
)
def list_runs(
    folder: Annotated[Path, typer.Argument(help="The folder with the runs.")] = RUNS,
    preset: Annotated[
        str | None, typer.Option(help="Only runs of this preset.", autocompletion=complete_preset)
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only runs that were fine-tuned for this task.")] = None,
    finished: Annotated[bool, typer.Option("--finished", help="Only finished runs.")] = False,
    sort: Annotated[
        SortKey,
        typer.Option(help="The order; loss and time ascending, losses per token, masked token apart."),
    ] = "started",
    each: Annotated[
        bool, typer.Option("--each", help="A line per run, also for runs of several seeds.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """List runs. Finished runs that differ in the seed only are one line with mean and 95 % interval."""
    from fpm_cli.reports.run_facts import find_runs
    from fpm_cli.reports.run_groups import RunGroup, group_runs

    runs, problems = find_runs(folder, stored_calibration())
    for problem in problems:
        log(problem)
    chosen = [
        run
        for run in runs
        if (preset is None or run.preset.lower() == preset.lower())
        and (task is None or run.task == task)
        and (not finished or run.state == "finished")
    ]
    chosen.sort(key=_sort_key(sort))
    groups = [RunGroup((run,)) for run in chosen] if each else group_runs(chosen)
    if as_json:
        show_json("runs-list", {"folder": str(folder), "groups": [_group_document(g) for g in groups]})
    elif groups:
        show(_list_table(groups))
    else:
        show(f"no such run under {folder}/" if runs else f"no run under {folder}/")


@app.command(
    "show",
    epilog="Examples:\n\n  fpm runs show runs/CPM-X-L-proxy\n\n  fpm runs show runs/CPM-X-L-proxy --json",
)
def show_run(folder: Folder, as_json: JsonFlag = False) -> None:
    """Show a run's state, losses, scores, cost, launches, and the settings that differ from its preset."""
    from fpm_cli.reports.run_facts import read_facts
    from fpm_cli.reports.task_scores import task_scores
    from fpm_cli.reports.words import duration, setting

    run = read_facts(folder, stored_calibration())
    scores = task_scores(run)
    if as_json:
        document = _run_document(run)
        document["scores"] = {split: dict(s.metrics) for split, s in scores.items()}
        document["changed_settings"] = {key: list(values) for key, values in run.changed_settings.items()}
        document["costs"] = run.costs.document() if run.costs else None
        document["launches"] = [launch.model_dump(mode="json") for launch in run.launches]
        show_json("runs-show", document)
        return
    table = Table("what", "value", title=str(run.path), show_header=False)
    rows = {
        "preset": _preset(run),
        "task": run.task or "pretraining",
        "state": f"{run.state}, step {run.step:,} of {run.config.train.steps:,}",
        "training loss": _number(run.last("train", "loss")),
        "validation loss": _loss(run),
        **{f"{s.headline}, {split}": f"{s.metrics[s.headline]:.4f}" for split, s in scores.items()},
        "time": duration(run.costs.hours * 3600) if run.costs else "-",
        "launches": str(len(run.launches)),
        "seed": str(run.config.train.seed),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for key, (before, after) in sorted(run.changed_settings.items()):
        table.add_row(key, f"{setting(after)} (preset: {setting(before)})")
    show(table)


@app.command(
    "verify",
    epilog="Examples:\n\n  fpm runs verify runs/CPM-X-L-proxy\n\n  fpm runs verify runs/CPM-X-L-proxy --json",
)
def verify(folder: Folder, as_json: JsonFlag = False) -> None:
    """Compare every file of a run with what was recorded; exit 6 and name the first that differs.

    That is all checkpoints with their optimizer states, the tokenizer, and encoded examples.
    """
    from fpm_cli.checkpoints.verify_run import verify_run
    from fpm_cli.runs.run import Run

    verified = verify_run(Run.open(folder))
    if as_json:
        document = {"run": str(folder), "checkpoints": verified.steps, "files": verified.num_files}
        show_json("runs-verify", {**document, "bytes": verified.num_bytes})
    else:
        steps = ", ".join(map(str, verified.steps)) or "none"
        show(
            f"{folder}: {verified.num_files} files, {verified.num_bytes:,} bytes, every checksum as recorded "
            f"(checkpoints of steps: {steps})"
        )


@app.command(
    "compare",
    epilog="Examples:\n\n  fpm runs compare runs/CPM-X-L-proxy runs/EPM-X-S-proxy\n\n"
    "  fpm runs compare runs/my-qqp runs/my-qqp-scratch --html comparison.html --json",
)
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Two or more run folders.", autocompletion=complete_run)
    ],
    html: Annotated[Path | None, typer.Option(help="Write the comparison as one HTML page.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare runs: settings that differ, validation losses, scores with paired intervals, cost."""
    from fpm_cli.reports.comparison import compare_runs, comparison_page
    from fpm_cli.reports.run_facts import read_facts

    if len(folders) < 2:
        raise UsageError("two or more runs are needed")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a run is named twice")
    compared = compare_runs([read_facts(folder, stored_calibration()) for folder in folders])
    if html:
        from fpm_cli.files import replace_text

        replace_text(html, comparison_page(compared))
        log(f"written to {html}")
    if as_json:
        show_json("runs-compare", compared.document())
    else:
        _show_comparison(compared)


def _show_comparison(compared: "RunComparison") -> None:
    from fpm_cli.reports.comparison import cost_rows, difference_rows, score_rows
    from fpm_cli.reports.words import setting

    settings = [(key, [setting(v) for v in values]) for key, values in compared.settings.items()]
    losses = [(f"step {step:,}", [f"{v:.4f}" for v in values]) for step, values in compared.losses.items()]
    for title, rows in (
        ("Settings that differ", settings),
        (f"Validation loss at common steps, nats per {compared.runs[0].loss_unit}", losses),
        ("Scores with 95 % intervals", score_rows(compared)),
        ("Cost", cost_rows(compared)),
    ):
        if rows:
            table = Table("", title=title, title_justify="left")
            for name in compared.names:
                table.add_column(name, justify="right", overflow="fold")
            for name, cells in rows:
                table.add_row(name, *cells)
            show(table)
    if compared.incomparable:
        show(compared.incomparable)
    if differences := difference_rows(compared):
        table = Table(
            "run", "score", title=f"Paired differences from {compared.names[0]}", title_justify="left"
        )
        for head in ("difference", "95 % interval", "p"):
            table.add_column(head, justify="right")
        for row in differences:
            table.add_row(*row)
        show(table)


def _sort_key(sort: SortKey) -> "Callable[[RunFacts], tuple[Any, ...]]":
    last = float("inf")
    keys: dict[str, Callable[[RunFacts], tuple[Any, ...]]] = {
        "started": lambda run: (run.started or "", str(run.path)),
        "name": lambda run: (str(run.path),),
        "preset": lambda run: (run.preset, str(run.path)),
        "loss": lambda run: (run.loss_unit, run.last("validation", "loss") or last, str(run.path)),
        "time": lambda run: (run.costs.hours if run.costs else last, str(run.path)),
    }
    return keys[sort]


def _list_table(groups: "list[RunGroup]") -> Table:
    from fpm_cli.reports.words import duration

    table = Table()
    table.add_column("run", no_wrap=True, overflow="fold")
    for name in ("preset", "task", "state"):
        table.add_column(name)
    for name in ("steps", "validation loss"):
        table.add_column(name, justify="right")
    table.add_column("nats per")
    for name in ("accuracy", "time"):
        table.add_column(name, justify="right")
    for group in groups:
        run = group.first
        name = str(run.path) if len(group.runs) == 1 else f"{run.path}\nand {len(group.runs) - 1} more seeds"
        seconds = sum(member.costs.hours * 3600 for member in group.runs if member.costs)
        table.add_row(
            *(name, _preset(run), _task(run), run.state),
            f"{run.step:,}",
            _estimate(loss := group.estimate("validation", "loss")),
            run.loss_unit if loss else "",
            _estimate(group.estimate("validation", "accuracy")),
            duration(seconds) if seconds else "-",
        )
    return table


def _preset(run: "RunFacts") -> str:
    return f"{run.preset}{' (proxy)' if run.config.proxy else ''}, {run.config.model.num_layers} layers"


def _task(run: "RunFacts") -> str:
    return f"{run.task}{', random weights' if run.initial_weights == 'random' else ''}" if run.task else "-"


def _loss(run: "RunFacts") -> str:
    loss = run.last("validation", "loss")
    return "-" if loss is None else f"{loss:.4f} nats per {run.loss_unit}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _estimate(value: "Estimate | None") -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.mean:.4f}"
    return f"{value.mean:.4f}\n{value.low:.4f} to {value.high:.4f}"


def _run_document(run: "RunFacts") -> dict[str, Any]:
    return {
        "run": str(run.path),
        "preset": run.preset,
        "proxy": run.config.proxy,
        "num_layers": run.config.model.num_layers,
        "task": run.task,
        "state": run.state,
        "started": run.started,
        "step": run.step,
        "steps": run.config.train.steps,
        "seed": run.config.train.seed,
        "train_loss": run.last("train", "loss"),
        "validation_loss": run.last("validation", "loss"),
        "loss_unit": run.loss_unit,
    }


def _group_document(group: "RunGroup") -> dict[str, Any]:
    from dataclasses import asdict

    loss, accuracy = group.estimate("validation", "loss"), group.estimate("validation", "accuracy")
    return {
        "runs": [_run_document(run) for run in group.runs],
        "seeds": list(group.seeds),
        "validation_loss": asdict(loss) if loss else None,
        "validation_accuracy": asdict(accuracy) if accuracy else None,
    }
