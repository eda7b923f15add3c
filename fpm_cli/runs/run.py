"""The run folder: what it holds, and that it is never overwritten.

config.toml     the resolved configuration
manifest.json   versions, git revision, seed, fingerprints, command lines, launches, state
metrics.jsonl   one row per optimizer step and per evaluation
corpus/         the sample corpus, where fpm built it itself
tokenizer/      a copy of the tokenizer, so that the run can be used where its corpus is not
checkpoints/    step-N/ folders; `latest` beside it names the newest
logs/           one log per rank, and its last heartbeat
budget.json     under a wall-clock budget: what was decided about the last step
tensorboard/
"""

import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from fpm_cli.config.presets import read_toml
from fpm_cli.config.resolve import validate
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import MissingError, StoppedError, UsageError
from fpm_cli.files import new_folder, replace_text
from fpm_cli.runs.manifest import MANIFEST, Launch, RunManifest, RunState, read_manifest, write_manifest
from fpm_cli.runs.metrics import Row, read_last_rows
from fpm_cli.runs.provenance import git_revision, software_versions
from fpm_cli.runs.tracking import require_tool

RUNS = Path("runs")
log = logging.getLogger(__name__)


class Run:
    """One run folder. `Run.create` makes a new one, `Run.open` opens one that is there."""

    def __init__(self, path: Path, command: Sequence[str] | None = None):
        self.path, self.command = path, tuple(command or sys.argv)
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.tokenizer_path = path / "tokenizer"

    @classmethod
    def create(cls, path: Path, config: RunConfig, corpus: Path | None) -> "Run":
        """Make a new run folder that trains on `corpus` (None: the sample corpus inside the run).

        Raises:
            UsageError: something is already there, or the path is not UTF-8.
            MissingError: the tracker of `[track]` is not installed.
        """
        _require_utf8(path)
        require_tool(config)
        if path.exists():
            raise UsageError(f"{path} is already there; --resume continues it, --out names another folder")
        run = cls(path)
        for folder in (run.checkpoints, path / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        run._write_config(config)
        manifest = RunManifest(
            config=config,
            corpus=str(corpus.resolve()) if corpus else "corpus",
            seed=config.train.seed,
            git_revision=git_revision(),
            versions=software_versions(),
            state=RunState.created,
            ready=False,
        )
        write_manifest(path / MANIFEST, manifest)
        return run

    @classmethod
    def open(cls, path: Path, command: Sequence[str] | None = None) -> "Run":
        """Open an existing run folder.

        `command` is what a launch records; by default that of this process.

        Raises:
            MissingError: it is not there, or not a run folder.
            UsageError: the path is not UTF-8.
        """
        _require_utf8(path)
        if not (path / "config.toml").is_file():
            raise MissingError(f"{path}: not a run folder (it has no config.toml)")
        return cls(path, command)

    @classmethod
    def wait_until_ready(cls, path: Path, seconds: float) -> "Run":
        """Open the run that node 0 makes, once its data is checked and training may begin.

        Raises:
            MissingError: that did not come within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (path / MANIFEST).is_file() and (run := cls.open(path)).manifest().ready:
                return run
            time.sleep(0.2)
        raise MissingError(
            f"{path}: node 0 did not make this run ready within {seconds:g} s; "
            "does it run, and do both nodes see the folder under this path?"
        )

    def config(self) -> RunConfig:
        """The configuration in config.toml."""
        return validate(read_toml(self.path / "config.toml"), {})

    def recorded_config(self) -> RunConfig:
        """The configuration in the manifest, which config.toml must still be."""
        return self.manifest().config or self.config()

    def change_config(self, config: RunConfig, difference: str) -> None:
        """Continue with another configuration; the manifest records the difference."""
        manifest = self.manifest()
        last = manifest.last_launch
        reopened = manifest.state is RunState.finished and last and config.train.steps > last.last_step
        self._write_config(config)
        self.update_manifest(
            config=config,
            config_changes=(*manifest.config_changes, difference),
            state=RunState.stopped if reopened else manifest.state,
        )

    def _write_config(self, config: RunConfig) -> None:
        document = config.model_dump(mode="json", exclude_none=True)
        replace_text(self.path / "config.toml", tomli_w.dumps(document))

    def manifest(self) -> RunManifest:
        """The manifest as it is on disk.

        Raises:
            DamagedError: it is missing or not one.
        """
        return read_manifest(self.path / MANIFEST)

    def update_manifest(self, **changes: Any) -> RunManifest:
        """Replace some fields of the manifest, on disk, and return it."""
        manifest = self.manifest().replaced(**changes)
        write_manifest(self.path / MANIFEST, manifest)
        return manifest

    def keep_tokenizer(self, source: Path) -> None:
        """Copy the tokenizer's folder `source` into the run, in place of the one that it has.

        With it the run can generate, score and be fine-tuned where its corpus is not.
        """
        if self.tokenizer_path.exists():
            shutil.rmtree(self.tokenizer_path)
        with new_folder(self.tokenizer_path) as folder:
            shutil.copytree(source, folder)

    @contextmanager
    def removed_unless_launched(self) -> Iterator[None]:
        """For the command that created the run: an error before its first launch removes the folder again.

        A stop by a signal keeps it, so that `--resume` can continue.
        """
        try:
            yield
        except StoppedError:
            raise
        except Exception:
            if not self.manifest().launches:
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def last_rows(self) -> dict[str, Row]:
        """The last row of each kind in metrics.jsonl.

        Raises:
            DamagedError: a line is no row.
        """
        return read_last_rows(self.metrics)

    def last_world_size(self) -> int | None:
        """How many processes trained it last; None before the first launch."""
        last = self.manifest().last_launch
        return last.devices if last else None

    @property
    def resume_command(self) -> str:
        """The command that continues this run."""
        verb = "finetune" if self.manifest().task else "pretrain"
        return f"`fpm {verb} --resume --out {self.path}`"

    def corpus_path(self) -> Path:
        """The corpus that the run trains on; relative paths are inside the run.

        Raises:
            MissingError: the run has none, since its weights were imported or it is fine-tuned.
        """
        manifest = self.manifest()
        if manifest.corpus is None:
            kind = "a fine-tuned run has" if manifest.task else "imported weights have"
            raise MissingError(f"{self.path}: {kind} no corpus; `fpm evaluate lm` takes one with --corpus")
        return self.path / manifest.corpus

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process alone; the kernel releases the lock (flock) when its holder dies.

        Raises:
            UsageError: another process holds it; says which.
        """
        lock, holder_path = FileLock(self.path / ".lock"), self.path / ".lock-holder"
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            holder = holder_path.read_text(encoding="utf-8").strip() if holder_path.exists() else "not known"
            raise UsageError(f"{self.path}: another process is training in it ({holder})") from error
        try:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            replace_text(holder_path, f"pid {os.getpid()} on {socket.gethostname()} since {now}\n")
            yield
        finally:
            holder_path.unlink(missing_ok=True)
            lock.release()

    def record_accounting(self, *, price_per_device_hour: float | None, cpu_peak_flops: float | None) -> None:
        """Record what the progress line and `fpm cost-report` compute with; None keeps what is recorded.

        `price_per_device_hour` is in any currency, `cpu_peak_flops` of all cores together in FLOP/s.
        """
        settings = {"price_per_device_hour": price_per_device_hour, "cpu_peak_flops": cpu_peak_flops}
        self.update_manifest(**{name: value for name, value in settings.items() if value is not None})

    def begin_launch(
        self, *, devices: int, device_name: str, first_step: int, threads_per_process: int | None = None
    ) -> None:
        """Record that training starts now; `update_launch` completes the entry.

        Warns where this launch differs from the one before in what the last bits of its numbers depend on.
        """
        manifest = self.manifest()
        launch = Launch(
            command=self.command,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            devices=devices,
            device_name=device_name,
            threads_per_process=threads_per_process,
            first_step=first_step,
            last_step=first_step,
            seconds=0.0,
        )
        if manifest.last_launch and (difference := launch.numeric_difference(manifest.last_launch)):
            log.warning("%s: %s; its numbers will differ in the last bits", self.path, difference)
        self.update_manifest(state=RunState.running, launches=(*manifest.launches, launch))

    def update_launch(
        self, *, last_step: int, seconds: float, state: str, peak_memory_bytes: int | None = None
    ) -> None:
        """Bring the current launch's entry up to date: at each checkpoint and at the end."""
        *earlier, launch = self.manifest().launches
        changes = {
            "last_step": last_step,
            "seconds": round(seconds, 3),
            "peak_memory_bytes": peak_memory_bytes,
        }
        launch = launch.model_copy(update=changes)
        self.update_manifest(state=state, launches=(*earlier, launch))


def _require_utf8(path: Path) -> None:
    """safetensors and TensorBoard open no file by a name that is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        name = str(path).encode("utf-8", "backslashreplace").decode()
        raise UsageError(f"{name}: the path of a run must be UTF-8; rename the folder") from error
