"""`fpm pretrain`: train a preset or its laptop-sized proxy; `--dry-run` plans, `--resume` continues."""

import shlex
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from fpm_cli.accounting.devices import CPU
from fpm_cli.accounting.horizon import Horizon
from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.completion import complete_device, complete_preset
from fpm_cli.cli.console import JsonFlag, in_words, log, show, show_json
from fpm_cli.cli.dry_run import show_dry_run
from fpm_cli.cli.durations import seconds_of
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
from fpm_cli.cli.new_run import (
    GIB,
    RunSettings,
    branch_at_checkpoint,
    create_run,
    new_run_path,
    require_fitting,
)
from fpm_cli.cli.numbers import MAX_DEVICES, MAX_HOST_GIB, MAX_PRICE
from fpm_cli.cli.resumed_run import check_corpus, ensure_sample_corpus, require_same_corpus, resume_run
from fpm_cli.config.warnings import find_doubtful_settings
from fpm_cli.errors import UsageError
from fpm_cli.launch.shutdown import stop_immediately_on_signal
from fpm_cli.runs.manifest import RunState
from fpm_cli.runs.run import Run

EXAMPLES = (
    "Examples:\n\n  fpm pretrain --preset CPM-X-L --proxy --set train.steps=20\n\n"
    "  fpm pretrain --preset CPM-X-L --dry-run --device A100-40 --devices 8"
)


def pretrain(
    preset: Annotated[
        str | None,
        typer.Option(help="One of the twenty, see `fpm presets list`.", autocompletion=complete_preset),
    ] = None,
    proxy: Annotated[bool, typer.Option("--proxy", help="Laptop width; the full depth.")] = False,
    corpus: Annotated[
        Path | None, typer.Option(help="A corpus from `fpm build-corpus`; --proxy has a sample of its own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default a new one in runs/.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or the newest in runs/.")
    ] = False,
    allow_config_change: Annotated[
        bool,
        typer.Option(
            "--allow-config-change", help="With --resume: accept what has changed instead of refusing it."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan only: FLOPs, memory, time.")] = False,
    device: Annotated[
        str | None,
        typer.Option(help="With --dry-run: the device to plan for.", autocompletion=complete_device),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, max=MAX_DEVICES, help="With --dry-run: how many of them. [1]")
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MAX_PRICE,
            help="Per device-hour, any currency: planned, or shown as it is spent.",
        ),
    ] = None,
    host_memory: Annotated[
        float | None,
        typer.Option(
            min=1, max=MAX_HOST_GIB, help="With --dry-run: GiB of each host; by default the vendor's server."
        ),
    ] = None,
    nproc: NprocFlag = None,
    launcher: LauncherFlag = Launcher.local,
    hostfile: HostfileFlag = None,
    nnodes: NnodesFlag = 1,
    node_rank: NodeRankFlag = 0,
    master_addr: MasterAddrFlag = None,
    master_port: MasterPortFlag = None,
    interface: InterfaceFlag = None,
    launcher_arg: LauncherArgFlag = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Wall-clock time to train in: seconds, or 90s, 30m, 1h30m; sets train.budget_seconds."
        ),
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(min=1, max=1e18, help="Train on this many tokens: sets train.steps.")
    ] = None,
    flops: Annotated[
        float | None, typer.Option(min=1, max=1e30, help="Train for this many model FLOPs: sets train.steps.")
    ] = None,
    tokens_per_parameter: Annotated[
        float | None,
        typer.Option(min=1e-9, max=1e9, help="Train on this many tokens per parameter: sets train.steps."),
    ] = None,
    decay_from: Annotated[
        str | None,
        typer.Option(
            metavar="RUN@STEP", help="Start from that checkpoint of a wsd run, and decay its learning rate."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file over the preset.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value over everything.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a preset from scratch, or its proxy, on all devices of this machine or of several."""
    began, node = time.time(), (nnodes, node_rank, master_addr, master_port)
    launching = Launching("pretrain", launcher, nproc, hostfile, *node, interface, launcher_arg or [])
    budget_setting = [f"train.budget_seconds={seconds_of(budget, bare_unit='s')}"] if budget else []
    settings = RunSettings(preset, proxy, config, (*(assignments or []), *budget_setting))
    horizon = Horizon(tokens, flops, tokens_per_parameter)
    _refuse_contradictions(
        dry_run=dry_run,
        resume=resume,
        plans_devices=bool(device or devices or host_memory),
        sets_length=bool(decay_from) or horizon != Horizon(),
        launching=launching,
    )
    if not launching.is_main_node:
        launching.follow(out, began)
        return
    if decay_from:
        run = branch_at_checkpoint(decay_from, out, corpus, settings)
    elif resume:
        run = resume_run(out, settings, allow_config_change)
    else:
        settings = settings.with_steps_of(horizon)
        new_config = settings.resolve().config
        begin = [*settings.flags(), *(["--corpus", str(corpus.resolve())] if corpus else [])]
        script = launching.script(begin, out or new_run_path(new_config), gpus=not new_config.proxy)
        if dry_run:
            show_dry_run(
                new_config,
                device or CPU,
                devices or 1,
                price_per_device_hour=price,
                host_bytes=None if host_memory is None else int(host_memory * GIB),
                command=shlex.join(["fpm", "pretrain", *settings.flags()]),
                script=script,
                as_json=as_json,
            )
            return
        if launcher is Launcher.slurm:
            launching.submit(script, as_json)
            return
        require_fitting(new_config, launching)
        launching.require_hosts()
        run = create_run(new_config, out, corpus)
    with nullcontext() if resume else run.removed_unless_launched():
        calibration = stored_calibration()
        run.record_accounting(
            price_per_device_hour=price, cpu_peak_flops=calibration.peak_flops if calibration else None
        )
        _train(run, launching, corpus if resume else None, allow_config_change, began)
    _show(run, as_json)


def _refuse_contradictions(
    *, dry_run: bool, resume: bool, plans_devices: bool, sets_length: bool, launching: Launching
) -> None:
    if not dry_run and plans_devices:
        raise UsageError(
            "--device, --devices and --host-memory say what --dry-run plans for; add it, or leave them out"
        )
    if dry_run and resume:
        raise UsageError("--dry-run plans a new run; leave out --resume")
    if resume and launching.launcher is Launcher.slurm:
        raise UsageError("--launcher slurm resumes an existing --out by itself; leave out --resume")
    if resume and sets_length:
        raise UsageError("--resume keeps the length of the run; leave out the flags that set it")


def _train(run: Run, launching: Launching, corpus: Path | None, allow_change: bool, began: float) -> None:
    """Train the run; `corpus` is that given with --resume."""
    if run.manifest().state is RunState.finished:
        log(f"{run.path} is finished; nothing is left to train")
        if corpus:
            require_same_corpus(run, corpus, allow_change)
        return
    for line in find_doubtful_settings(run.config()):
        log(f"warning: {line}")
    with stop_immediately_on_signal(f"stopped before training; continue with {run.resume_command}"):
        if corpus is None:
            ensure_sample_corpus(run)
        check_corpus(run, corpus, allow_change)
        log(f"training in {run.path}")
        launching.train(run, began)


def _show(run: Run, as_json: bool) -> None:
    last = run.last_rows()
    if as_json:
        show_json("pretrain", {"run": str(run.path), "step": last["train"]["step"], **_losses(last)})
    else:
        show(f"{run.path}: step {last['train']['step']}, {in_words(_losses(last))}")


def _losses(rows: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    return {f"{kind}_loss": row["loss"] for kind, row in rows.items() if kind in ("train", "validation")}
