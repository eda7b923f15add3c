"""`fpm finetune`: train a pretrained run, or weights in transformers' format, for a task."""

import os
import time
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpm_cli.checkpoints.folders import require_no_lost_checkpoint
from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.completion import complete_run, complete_task
from fpm_cli.cli.console import JsonFlag, in_words, log, show, show_json
from fpm_cli.cli.launching import (
    HostfileFlag,
    InterfaceFlag,
    Launcher,
    LauncherArgFlag,
    LauncherFlag,
    Launching,
    MasterAddrFlag,
    MasterPortFlag,
    NnodesFlag,
    NodeRankFlag,
    NprocFlag,
)
from fpm_cli.config.resolve import difference
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.config.warnings import find_doubtful_settings
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.launch.shutdown import stop_immediately_on_signal
from fpm_cli.runs.find import newest_run
from fpm_cli.runs.manifest import RunState
from fpm_cli.runs.run import RUNS, Run
from fpm_cli.tasks.suite import Suite, load_suite, suite_names

if TYPE_CHECKING:
    from fpm_cli.tasks.finetune_run import FinetuneRequest

EXAMPLES = (
    "Examples:\n\n  fpm finetune qqp --from runs/BERT-E-S --train qqp/train.tsv --dev qqp/dev.tsv\n\n"
    "  fpm finetune my_task.toml --from downloads/bert-base-chinese --train rows.csv --set finetune.epochs=4"
)


def finetune(
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="A task such as qqp or tnews, glue, clue, or a TOML file that defines a task.",
            autocompletion=complete_task,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A run, or a folder in transformers' format.", autocompletion=complete_run
        ),
    ] = None,
    train: Annotated[list[Path] | None, typer.Option(help="Examples to train on; may be repeated.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="With glue or clue: the folder of the suite's files.")
    ] = None,
    validation: Annotated[
        str, typer.Option(help="A file, or the fraction of the training examples to validate on.")
    ] = "0.05",
    dev: Annotated[
        Path | None,
        typer.Option(help="The file that `fpm evaluate` scores by default; not used in training."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default a new one in runs/.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or the newest run of the task.")
    ] = False,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Train the same network from new weights, for comparison."),
    ] = False,
    max_bad: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_COUNT, help="Refuse a file with more rejected rows than this."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="With --launcher deepspeed or slurm: print what would be started."),
    ] = False,
    nproc: NprocFlag = None,
    launcher: LauncherFlag = Launcher.local,
    hostfile: HostfileFlag = None,
    nnodes: NnodesFlag = 1,
    node_rank: NodeRankFlag = 0,
    master_addr: MasterAddrFlag = None,
    master_port: MasterPortFlag = None,
    interface: InterfaceFlag = None,
    launcher_arg: LauncherArgFlag = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file over the recipe.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value over everything.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fine-tune on a task with the published recipe; the weights of the best epoch are scored."""
    began, node = time.time(), (nnodes, node_rank, master_addr, master_port)
    where = Launching("finetune", launcher, nproc, hostfile, *node, interface, launcher_arg or [])
    if task in suite_names():
        if train or dev or resume or dry_run or launcher is not Launcher.local or nnodes > 1:
            raise UsageError(f"{task} takes its files from --data and runs locally; name one task for more")
        first = load_suite(task).tasks[0].task  # each task replaces it
        request = _request(first, source, None, validation, None, from_scratch, max_bad, config, assignments)
        _finetune_suite(load_suite(task), data, request, out, where, as_json)
        return
    if data is not None:
        raise UsageError(f"--data is for {' and '.join(suite_names())}; give a task --train and --dev")
    if dry_run and (resume or launcher is Launcher.local):
        raise UsageError("--dry-run prints what --launcher deepspeed or slurm would start; name one of them")
    if not where.is_main_node:
        from fpm_cli.tasks.finetuning import Finetuning

        where.follow(out, began, Finetuning)
        return
    if resume:
        if source or train or config or assignments or dev or from_scratch:
            raise UsageError("--resume continues with the run's own settings: give it --out and nothing else")
        if launcher is Launcher.slurm:
            raise UsageError("--launcher slurm resumes an existing --out by itself; leave out --resume")
        run = _open_resumed(task, out)
    else:
        request = _request(task, source, train, validation, dev, from_scratch, max_bad, config, assignments)
        out = out or _default_out(request)
        script = where.script(_flags(str(task), request), out, gpus=not _of_proxy(request.source))
        if dry_run:
            show_json("finetune-dry-run", {"launch": script}) if as_json else show(script)
            return
        if launcher is Launcher.slurm:
            where.submit(script, as_json)
            return
        where.require_hosts()
        run = _create(request, out)
    with nullcontext() if resume else run.removed_unless_launched():
        _train(run, where, began)
    _show(run, as_json)


def _finetune_suite(
    suite: Suite,
    data: Path | None,
    request: "FinetuneRequest",
    out: Path | None,
    where: Launching,
    as_json: bool,
) -> None:
    from fpm_cli.tasks.finetune_suite import suite_runs

    if data is None:
        raise UsageError(
            f"--data is missing: the folder of {suite.name}'s files, as its archives are laid out"
        )
    kind = "-scratch" if request.from_scratch else ""
    out = out or RUNS / f"{suite.name}-{request.source.resolve().name}{kind}"
    for run in suite_runs(suite, data, request, out, log):
        _train(run, where, time.time())
    if as_json:
        show_json("finetune-suite", {"suite": suite.name, "out": str(out)})
    else:
        show(f"{out}: `fpm evaluate {suite.name} {out}` scores it")


def _request(
    task: str | None,
    source: Path | None,
    train: list[Path] | None,
    validation: str,
    dev: Path | None,
    from_scratch: bool,
    max_bad: int | None,
    config: Path | None,
    assignments: list[str] | None,
) -> "FinetuneRequest":
    from fpm_cli.tasks.definition import load_task
    from fpm_cli.tasks.finetune_run import FinetuneRequest

    if task is None:
        raise UsageError(
            "TASK is missing: a task such as qqp, a suite (glue, clue), or a TOML file of your own"
        )
    if source is None:
        raise UsageError("--from is missing: a run of `fpm pretrain`, or a folder in transformers' format")
    return FinetuneRequest(
        task=load_task(task, also_known=suite_names()),
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


def _create(request: "FinetuneRequest", out: Path) -> Run:
    from fpm_cli.tasks.finetune_run import create_run

    return create_run(request, out, log)


def _flags(task: str, request: "FinetuneRequest") -> list[str]:
    """The flags that start the same run from the same working folder."""
    flags = [task, "--from", str(request.source), "--validation", str(request.validation)]
    flags += [word for path in request.train_files for word in ("--train", str(path))]
    flags += ["--dev", str(request.dev_file)] if request.dev_file else []
    flags += ["--max-bad", str(request.max_bad)] if request.max_bad is not None else []
    flags += ["--from-scratch"] if request.from_scratch else []
    flags += ["--config", str(request.config_file)] if request.config_file else []
    return flags + [word for text in request.assignments for word in ("--set", text)]


def _of_proxy(source: Path) -> bool:
    """Whether the source is a proxy run, which is trained on the CPU."""
    return (source / "config.toml").is_file() and Run.open(source).config().proxy


def _default_out(request: "FinetuneRequest") -> Path:
    name = f"{request.task.name}-{request.source.resolve().name}{'-scratch' if request.from_scratch else ''}"
    return RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _validation(given: str) -> Path | float:
    try:
        share = float(given)
    except ValueError:
        return Path(given)
    if not 0 < share < 1:
        raise UsageError(f"--validation {given}: a file, or a fraction between 0 and 1")
    return share


def _open_resumed(task: str | None, out: Path | None) -> Run:
    if out is None and task is None:
        raise UsageError("--resume: name the run with --out, or the task whose newest run is to be continued")
    run = Run.open(out) if out else newest_run(task=task)
    require_no_lost_checkpoint(run)
    if run.manifest().task is None:
        raise UsageError(f"{run.path} is not a fine-tuned run; use `fpm pretrain --resume --out {run.path}`")
    if changed := difference(run.recorded_config(), run.config()):
        raise DamagedError(f"{run.path} was started with another configuration: {changed}")
    return run


def _train(run: Run, where: Launching, began: float) -> None:
    from fpm_cli.tasks.finetune_run import check_unchanged
    from fpm_cli.tasks.finetuning import Finetuning

    if run.manifest().state is RunState.finished:
        log(f"{run.path} is finished; there is nothing left to train")
        return
    with stop_immediately_on_signal(f"stopped before training; continue with {run.resume_command}"):
        check_unchanged(run)
        calibration = stored_calibration()
        run.record_accounting(
            price_per_device_hour=None, cpu_peak_flops=calibration.peak_flops if calibration else None
        )
        for line in find_doubtful_settings(run.config()):
            log(f"warning: {line}")
        log(f"training in {run.path}")
        where.train(run, began, Finetuning)


def _show(run: Run, as_json: bool) -> None:
    from fpm_cli.checkpoints.checkpoint import find_best_checkpoint
    from fpm_cli.checkpoints.folders import checkpoint_step

    rows, task = run.last_rows(), run.manifest().task
    assert task
    best = find_best_checkpoint(run)
    validation = {name: value for name, value in rows["validation"].items() if name not in ("kind", "step")}
    if as_json:
        show_json(
            "finetune",
            {
                "run": str(run.path),
                "task": task.name,
                "from": task.origin.run,
                "from_scratch": task.from_scratch,
                "num_examples": task.num_examples,
                "step": rows["train"]["step"],
                "train_loss": rows["train"]["loss"],
                "validation": validation,
                "best_step": checkpoint_step(best) if best else None,
            },
        )
    else:
        chosen = f"; the best is step {checkpoint_step(best)}" if best else ""
        show(f"{run.path}: step {rows['train']['step']}, validation {in_words(validation)}{chosen}")
