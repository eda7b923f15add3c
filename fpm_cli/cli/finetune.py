"""`fpm finetune`: train a pretrained run, or weights in transformers' format, for a task."""

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.console import JsonFlag, in_words, log, show, show_json, verbosity
from fpm_cli.config.resolve import difference
from fpm_cli.engine.run import RUNS, Run, newest_run
from fpm_cli.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from fpm_cli.tasks.finetune_run import Request

EXAMPLES = (
    "Examples:\n\n  fpm finetune qqp --from runs/BERT-E-S --train qqp/train.tsv --dev qqp/dev.tsv\n\n"
    "  fpm finetune my_task.toml --from downloads/bert-base-chinese --train rows.csv --set finetune.epochs=4"
)


def finetune(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="qqp, tnews, or a TOML file that defines a task.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A run, or a folder in transformers' format."),
    ] = None,
    train: Annotated[list[Path] | None, typer.Option(help="Examples to train on; may be repeated.")] = None,
    validation: Annotated[
        str, typer.Option(help="A file, or the share of the training examples to hold back.")
    ] = "0.05",
    dev: Annotated[
        Path | None, typer.Option(help="What `fpm evaluate` scores by default; never used here.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default a new one in runs/.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or with the newest of the task.")
    ] = False,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="The same network with fresh weights, to compare."),
    ] = False,
    max_bad: Annotated[
        int | None, typer.Option(min=0, help="Refuse a file with more bad rows than this.")
    ] = None,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine; by default one a GPU, or one.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file over the recipe.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value over everything.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fine-tune on a task with the published recipe; the best epoch's weights are what is scored."""
    if resume:
        if source or train or config or assignments or dev or from_scratch:
            raise UsageError("--resume goes on with what the run began with: give it --out and nothing else")
        run = _resumed(task, out)
    else:
        run = _created(task, source, train, validation, dev, out, from_scratch, max_bad, config, assignments)
    _train(run, nproc)
    _show(run, as_json)


def _created(
    task: str | None,
    source: Path | None,
    train: list[Path] | None,
    validation: str,
    dev: Path | None,
    out: Path | None,
    from_scratch: bool,
    max_bad: int | None,
    config: Path | None,
    assignments: list[str] | None,
) -> Run:
    from fpm_cli.tasks.definition import load_task
    from fpm_cli.tasks.finetune_run import Request, create_run

    if task is None:
        raise UsageError("TASK is missing: qqp, tnews, or a TOML file of your own")
    if source is None:
        raise UsageError("--from is missing: a run of `fpm pretrain`, or a folder in transformers' format")
    definition = load_task(task)
    request = Request(
        task=definition,
        source=source,
        train_files=tuple(train or ()),
        validation=_validation(validation),
        dev_file=dev,
        max_bad=max_bad,
        from_scratch=from_scratch,
        config_file=config,
        environment=os.environ,
        assignments=tuple(assignments or ()),
    )
    return create_run(request, out or _default_out(request), log)


def _default_out(request: "Request") -> Path:
    name = f"{request.task.name}-{request.source.resolve().name}{'-scratch' if request.from_scratch else ''}"
    return RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _validation(given: str) -> Path | float:
    try:
        share = float(given)
    except ValueError:
        return Path(given)
    if not 0 < share < 1:
        raise UsageError(f"--validation {given}: a file, or a share between 0 and 1")
    return share


def _resumed(task: str | None, out: Path | None) -> Run:
    if out is None and task is None:
        raise UsageError("--resume: name the run with --out, or the task whose newest run to go on with")
    run = Run.open(out) if out else newest_run(task=task)
    if "task" not in run.manifest():
        raise UsageError(f"{run.path} is not a fine-tuning; `fpm pretrain --resume --out {run.path}`")
    if changed := difference(run.began_with(), run.config()):
        raise DamagedError(f"{run.path} was started with another configuration: {changed}")
    return run


def _train(run: Run, nproc: int | None) -> None:
    from fpm_cli.engine.launch import launch
    from fpm_cli.engine.placement import Placement
    from fpm_cli.engine.world import device_count
    from fpm_cli.tasks.finetune_run import check_unchanged
    from fpm_cli.tasks.finetuning import Finetuning

    if run.manifest()["state"] == "finished":
        log(f"{run.path} is finished; nothing is left to train")
        return
    check_unchanged(run)
    calibration = stored_calibration()
    run.note(cpu_peak_flops=calibration.peak_flops if calibration else None)
    log(f"training in {run.path}")
    placement = Placement(nproc or run.last_world_size() or device_count())
    launch(run, placement, Finetuning, quiet=verbosity.quiet)


def _show(run: Run, as_json: bool) -> None:
    from fpm_cli.engine.checkpoint import best_checkpoint, checkpoints, step_of

    rows, manifest = run.last_rows(), run.manifest()
    best = best_checkpoint(checkpoints(run))
    validation = {name: value for name, value in rows["validation"].items() if name not in ("kind", "step")}
    if as_json:
        show_json(
            "finetune",
            {
                "run": str(run.path),
                "task": manifest["task"],
                "from": manifest["from"]["run"],
                "from_scratch": manifest["from_scratch"],
                "num_examples": manifest["num_examples"],
                "step": rows["train"]["step"],
                "train_loss": rows["train"]["loss"],
                "validation": validation,
                "best_step": step_of(best) if best else None,
            },
        )
    else:
        chosen = f"; the best is step {step_of(best)}" if best else ""
        show(f"{run.path}: step {rows['train']['step']}, validation {in_words(validation)}{chosen}")
