"""`fpm pretrain`: train a preset or its laptop-sized proxy; `--dry-run` plans, `--resume` continues."""

import math
import shlex
import time
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpm_cli.accounting.devices import CPU, this_machine
from fpm_cli.accounting.horizon import Horizon, steps_of
from fpm_cli.accounting.plan import fits_here
from fpm_cli.checkpoints.folders import require_no_lost_checkpoint
from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.completion import complete_device, complete_preset
from fpm_cli.cli.console import JsonFlag, in_words, log, show, show_json, stderr_console
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
from fpm_cli.cli.numbers import MAX_DEVICES, MAX_HOST_GIB, MAX_PRICE
from fpm_cli.config.resolve import Resolved, difference, reconfigure, resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.config.warnings import find_doubtful_settings
from fpm_cli.errors import DamagedError, MissingError, OutOfMemoryError, UsageError
from fpm_cli.launch.gpus import query_gpus
from fpm_cli.launch.shutdown import stop_immediately_on_signal
from fpm_cli.progress_bars import working
from fpm_cli.runs.find import newest_run
from fpm_cli.runs.manifest import RunState
from fpm_cli.runs.run import RUNS, Run

if TYPE_CHECKING:
    from fpm_cli.corpus.corpus import Corpus

GIB = 2**30
CONTINUE_CHANGED = "--allow-config-change continues with the new one"
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
    where = Launching("pretrain", launcher, nproc, hostfile, *node, interface, launcher_arg or [])
    assignments = [
        *(assignments or []),
        *([f"train.budget_seconds={seconds_of(budget, bare_unit='s')}"] if budget else []),
    ]
    if not dry_run and (device or devices or host_memory):
        raise UsageError(
            "--device, --devices and --host-memory say what --dry-run plans for; add it, or leave them out"
        )
    if dry_run and resume:
        raise UsageError("--dry-run plans a new run; leave out --resume")
    if not where.is_main_node:
        where.follow(out, began)
        return
    if resume and launcher is Launcher.slurm:
        raise UsageError("--launcher slurm resumes an existing --out by itself; leave out --resume")
    horizon = Horizon(tokens, flops, tokens_per_parameter)
    if resume and (decay_from or horizon != Horizon()):
        raise UsageError("--resume continues a run as it began; leave out what says how long to train")
    if decay_from:
        run = _branch(decay_from, out, preset, corpus, config, assignments)
    elif resume:
        run = _resumed(out, preset, proxy, config, assignments, allow_config_change)
    else:
        resolved = _resolved(preset, proxy, config, assignments)
        if horizon != Horizon():
            assignments = [*assignments, f"train.steps={steps_of(resolved.config, horizon)}"]
            resolved = _resolved(preset, proxy, config, assignments)
        flags = _flags(preset, proxy, config, assignments)
        begin = [*flags, *(["--corpus", str(corpus.resolve())] if corpus else [])]
        script = where.script(begin, out or _new_path(resolved.config), gpus=not resolved.config.proxy)
        if dry_run:
            show_dry_run(
                resolved.config,
                device or CPU,
                devices or 1,
                price_per_device_hour=price,
                host_bytes=None if host_memory is None else int(host_memory * GIB),
                command=shlex.join(["fpm", "pretrain", *flags]),
                script=script,
                as_json=as_json,
            )
            return
        if launcher is Launcher.slurm:
            where.submit(script, as_json)
            return
        _check_fits(resolved.config, where)
        where.require_hosts()
        run = _created(resolved, out, corpus)
    with nullcontext() if resume else run.removed_unless_launched():
        calibration = stored_calibration()
        run.record_accounting(
            price_per_device_hour=price, cpu_peak_flops=calibration.peak_flops if calibration else None
        )
        _train(run, where, corpus if resume else None, allow_config_change, began)
    _show(run, as_json)


def _resolved(preset: str | None, proxy: bool, config: Path | None, assignments: list[str]) -> Resolved:
    if preset is None:
        raise UsageError("--preset is missing; `fpm presets list` shows all twenty")
    return resolve(preset, proxy=proxy, config_file=config, assignments=assignments)


def _flags(preset: str | None, proxy: bool, config: Path | None, assignments: list[str]) -> list[str]:
    """What begins the run that `--dry-run` plans."""
    flags = ["--preset", str(preset), *(["--proxy"] if proxy else [])]
    flags += ["--config", str(config.resolve())] if config else []
    return flags + [word for text in assignments for word in ("--set", text)]


def _check_fits(config: RunConfig, where: Launching) -> None:
    """Refuse what cannot fit before anything is written."""
    from fpm_cli.ops.build import is_built

    gpus, engine = query_gpus(), config.engine
    here = where.nproc or gpus.count or 1
    ranks = where.world_size(here)
    host = this_machine().memory_bytes
    fit = fits_here(
        config,
        gpus.free_bytes if gpus.count else host // here,
        ranks,
        cpu=not gpus.count,
        has_bf16=gpus.has_native_bf16,
        compiled=not gpus.count and engine.kernels == "auto" and is_built(engine.kernels_folder),
        local_ranks=here,
        host_bytes=host,
    )
    if not fit.fits_device:
        raise OutOfMemoryError(
            f"{config.name} needs {fit.needed / GIB:,.1f} GiB on each of {ranks} device(s) and "
            f"{fit.available / GIB:,.1f} GiB are available; --proxy trains the same depth at laptop width, "
            "--dry-run shows what it takes on other devices"
        )
    if not fit.fits_host:
        raise OutOfMemoryError(
            f"{config.name} needs {fit.host_needed / GIB:,.1f} GiB of this machine's memory for {here} "
            f"rank(s) and {host / GIB:,.1f} GiB are available; --dry-run shows for what"
        )


def _created(resolved: Resolved, out: Path | None, corpus: Path | None) -> Run:
    """A new run folder."""
    config = resolved.config
    if corpus is None and not config.proxy:
        raise MissingError(
            f"--corpus is missing: {config.name} trains on {config.corpus}; "
            f"build one with `fpm build-corpus`, or use --proxy, which has a sample of its own"
        )
    if corpus is not None and not (corpus / "manifest.json").is_file():
        raise MissingError(f"--corpus {corpus}: not a corpus (it has no manifest.json)")
    return Run.create(out or _new_path(config), config, corpus)


def _branch(
    origin: str,
    out: Path | None,
    preset: str | None,
    corpus: Path | None,
    config: Path | None,
    assignments: list[str],
) -> Run:
    """A new run that starts at a checkpoint of a wsd run and decays its learning rate."""
    from fpm_cli.checkpoints.branch import branch_run

    name, separator, step = origin.rpartition("@")
    if not separator or not step.isdecimal():
        raise UsageError(f"--decay-from {origin}: write it as RUN@STEP, for example runs/trunk@1000")
    if preset or corpus:
        raise UsageError("--decay-from takes preset and corpus from the run; leave out --preset and --corpus")
    source = Run.open(Path(name))
    trunk = source.config()
    steps = math.ceil(int(step) / (1 - trunk.train.decay_share))
    branch = reconfigure(trunk, assignments=[f"train.steps={steps}", "train.keep_steps=[]"])
    branch = reconfigure(branch, config_file=config, assignments=assignments)
    return branch_run(source, int(step), out or _new_path(branch), branch)


def _new_path(config: RunConfig) -> Path:
    name = f"{config.name}{'-proxy' if config.proxy else ''}"
    return RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _ensure_corpus(run: Run) -> None:
    """A proxy that was given no corpus builds the sample of its language inside the run."""
    path = run.corpus_path()
    if path.is_relative_to(run.path) and not path.exists():
        from fpm_cli.corpus.samples import build_sample_corpus

        config = run.config()
        what = f"building the sample corpus and its {config.tokenizer} tokenizer in {path}"
        with working(what, stderr_console()):
            build_sample_corpus(config, path)


def _check_corpus(run: Run, given: Path | None, allow_change: bool) -> None:
    """Refuse a corpus with a damaged file, and one that is not the one the run began with; record it."""
    from fpm_cli.corpus.corpus import TOKENIZER, Corpus

    corpus = Corpus.open(given or run.corpus_path())
    corpus.verify()
    facts = corpus.manifest
    _require_same_corpus(run, corpus, allow_change)
    manifest = run.manifest()
    if not run.tokenizer_path.exists() or manifest.tokenizer_fingerprint != facts.tokenizer.fingerprint:
        run.keep_tokenizer(corpus.path / TOKENIZER)
    run.update_manifest(
        tokenizer_fingerprint=facts.tokenizer.fingerprint,
        corpus_fingerprint=facts.fingerprint,
        corpus=str(given.resolve()) if given else manifest.corpus,
        ready=True,
    )


def _require_same_corpus(run: Run, corpus: "Corpus", allow_change: bool) -> None:
    manifest, facts = run.manifest(), corpus.manifest
    fingerprints = {
        "tokenizer_fingerprint": (manifest.tokenizer_fingerprint, facts.tokenizer.fingerprint),
        "corpus_fingerprint": (manifest.corpus_fingerprint, facts.fingerprint),
    }
    for field, (recorded, current) in fingerprints.items():
        if recorded not in (None, current) and not allow_change:
            raise DamagedError(
                f"{corpus.path}: {field} was {recorded} and is now {current}; {CONTINUE_CHANGED}"
            )


def _resumed(
    out: Path | None,
    preset: str | None,
    proxy: bool,
    config: Path | None,
    assignments: list[str],
    allow_change: bool,
) -> Run:
    """The run to continue; its configuration must be the one that it began with."""
    run = Run.open(out) if out else newest_run()
    require_no_lost_checkpoint(run)
    stored, now = run.recorded_config(), run.config()
    if preset or proxy:
        now = resolve(
            preset or stored.name, proxy=proxy or stored.proxy, config_file=config, assignments=assignments
        ).config
    elif config or assignments:
        now = reconfigure(now, config_file=config, assignments=assignments)
    if now != stored:
        changed = difference(stored, now)
        if not allow_change:
            raise DamagedError(
                f"{run.path} was started with another configuration: {changed}; {CONTINUE_CHANGED}"
            )
        with run.lock():
            run.change_config(now, changed)
    return run


def _train(run: Run, where: Launching, corpus: Path | None, allow_change: bool, began: float) -> None:
    if run.manifest().state is RunState.finished:
        log(f"{run.path} is finished; nothing is left to train")
        if corpus:
            from fpm_cli.corpus.corpus import Corpus

            _require_same_corpus(run, Corpus.open(corpus), allow_change)
    else:
        for line in find_doubtful_settings(run.config()):
            log(f"warning: {line}")
        with stop_immediately_on_signal(f"stopped before training; continue with {run.resume_command}"):
            if corpus is None:
                _ensure_corpus(run)
            _check_corpus(run, corpus, allow_change)
            log(f"training in {run.path}")
            where.train(run, began)


def _show(run: Run, as_json: bool) -> None:
    last = run.last_rows()
    if as_json:
        show_json("pretrain", {"run": str(run.path), "step": last["train"]["step"], **_losses(last)})
    else:
        show(f"{run.path}: step {last['train']['step']}, {in_words(_losses(last))}")


def _losses(rows: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    return {f"{kind}_loss": row["loss"] for kind, row in rows.items() if kind in ("train", "validation")}
