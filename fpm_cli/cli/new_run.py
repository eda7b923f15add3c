"""A new run of `fpm pretrain`: its configuration from the flags, whether it fits, and its folder."""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fpm_cli.accounting.devices import this_machine
from fpm_cli.accounting.horizon import Horizon, steps_of
from fpm_cli.accounting.plan import fits_here
from fpm_cli.config.resolve import Resolved, reconfigure, resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import MissingError, OutOfMemoryError, UsageError
from fpm_cli.launch.gpus import query_gpus
from fpm_cli.runs.run import RUNS, Run

if TYPE_CHECKING:
    from fpm_cli.cli.launching import Launching

GIB = 2**30


@dataclass(frozen=True)
class RunSettings:
    """The flags that configure a run: --preset, --proxy, --config and --set."""

    preset: str | None
    proxy: bool
    config_file: Path | None
    assignments: tuple[str, ...]

    def resolve(self) -> Resolved:
        """The configuration and the origin of each value.

        Raises:
            UsageError: there is no preset, or a value is wrong.
        """
        if self.preset is None:
            raise UsageError("--preset is missing; `fpm presets list` shows all twenty")
        return resolve(
            self.preset, proxy=self.proxy, config_file=self.config_file, assignments=self.assignments
        )

    def with_steps_of(self, horizon: Horizon) -> "RunSettings":
        """The same settings with the number of steps that the horizon gives."""
        if horizon == Horizon():
            return self
        steps = steps_of(self.resolve().config, horizon)
        return replace(self, assignments=(*self.assignments, f"train.steps={steps}"))

    def flags(self) -> list[str]:
        """The flags that start a run with these settings from any folder."""
        flags = ["--preset", str(self.preset), *(["--proxy"] if self.proxy else [])]
        flags += ["--config", str(self.config_file.resolve())] if self.config_file else []
        return flags + [word for text in self.assignments for word in ("--set", text)]


def new_run_path(config: RunConfig) -> Path:
    """The default folder of a new run, named after its preset and the time."""
    name = f"{config.name}{'-proxy' if config.proxy else ''}"
    return RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def require_fitting(config: RunConfig, launching: "Launching") -> None:
    """Check before anything is written that the run fits into the memory of this machine.

    Raises:
        OutOfMemoryError: it does not; names the memory needed and available.
    """
    from fpm_cli.ops.build import is_built

    gpus, engine = query_gpus(), config.engine
    ranks_here = launching.nproc or gpus.count or 1
    ranks = launching.world_size(ranks_here)
    host = this_machine().memory_bytes
    fit = fits_here(
        config,
        gpus.free_bytes if gpus.count else host // ranks_here,
        ranks,
        cpu=not gpus.count,
        has_bf16=gpus.has_native_bf16,
        compiled=not gpus.count and engine.kernels == "auto" and is_built(engine.kernels_folder),
        local_ranks=ranks_here,
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
            f"{config.name} needs {fit.host_needed / GIB:,.1f} GiB of this machine's memory for {ranks_here} "
            f"rank(s) and {host / GIB:,.1f} GiB are available; --dry-run shows for what"
        )


def create_run(config: RunConfig, out: Path | None, corpus: Path | None) -> Run:
    """Create the run folder.

    Raises:
        MissingError: the preset needs a corpus, or `corpus` is not one.
    """
    if corpus is None and not config.proxy:
        raise MissingError(
            f"--corpus is missing: {config.name} trains on {config.corpus}; "
            f"build one with `fpm build-corpus`, or use --proxy, which has a sample of its own"
        )
    if corpus is not None and not (corpus / "manifest.json").is_file():
        raise MissingError(f"--corpus {corpus}: not a corpus (it has no manifest.json)")
    return Run.create(out or new_run_path(config), config, corpus)


def branch_at_checkpoint(origin: str, out: Path | None, corpus: Path | None, settings: RunSettings) -> Run:
    """Create a run that starts at a checkpoint of a wsd run and decays its learning rate.

    Args:
        origin: RUN@STEP.
        out: the new run folder.
        corpus: refused, as the corpus is that of the origin.
        settings: `config_file` and `assignments` change the configuration of the origin.

    Raises:
        UsageError: `origin` is not RUN@STEP, or a flag contradicts it.
    """
    from fpm_cli.checkpoints.branch import branch_run

    name, separator, step = origin.rpartition("@")
    if not separator or not step.isdecimal():
        raise UsageError(f"--decay-from {origin}: write it as RUN@STEP, for example runs/trunk@1000")
    if settings.preset or corpus:
        raise UsageError("--decay-from takes preset and corpus from the run; leave out --preset and --corpus")
    source = Run.open(Path(name))
    trunk = source.config()
    steps = math.ceil(int(step) / (1 - trunk.train.decay_share))
    branch = reconfigure(trunk, assignments=[f"train.steps={steps}", "train.keep_steps=[]"])
    branch = reconfigure(branch, config_file=settings.config_file, assignments=settings.assignments)
    return branch_run(source, int(step), out or new_run_path(branch), branch)
