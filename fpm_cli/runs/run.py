"""The run folder: what it holds, and that it is never overwritten.

config.toml     the resolved configuration
manifest.json   versions, git revision, seed, fingerprints, command lines, launches, state
metrics.jsonl   a line per optimizer step and per evaluation, without gaps or doubles
corpus/         the sample corpus, where fpm built it itself
tokenizer/      in an imported run, which has no corpus
checkpoints/    step-N/ folders; `latest` beside it names the newest
logs/           one file a rank, and its last sign of life
budget.json     under a wall-clock budget: what was decided about the last step
tensorboard/
"""

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from fpm_cli import __version__
from fpm_cli.config.presets import read_toml
from fpm_cli.config.resolve import validate
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.files import replace_text

RUNS = Path("runs")


class Run:
    """One run folder. `Run.create` makes it, `Run.open` finds it again."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.tokenizer_path = path / "tokenizer"

    @classmethod
    def create(cls, path: Path, config: RunConfig, corpus: Path | None) -> "Run":
        """Make a new run folder that trains on `corpus` (None: the sample corpus inside the run).

        Raises:
            UsageError: something is already there.
        """
        if path.exists():
            raise UsageError(f"{path} is already there; --resume continues it, --out names another folder")
        run = cls(path)
        for folder in (run.checkpoints, path / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        run._write_config(config)
        run.write_manifest(
            {
                "schema": "fpm.run/1",
                "config": config.model_dump(mode="json", exclude_none=True),
                "corpus": str(corpus.resolve()) if corpus else "corpus",
                "seed": config.train.seed,
                "git_revision": _git_revision(),
                "versions": _versions(),
                "state": "created",
                "launches": [],
            }
        )
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open an existing run folder.

        Raises:
            MissingError: it is not there, or not a run folder.
        """
        if not (path / "config.toml").is_file():
            raise MissingError(f"{path}: not a run folder (it has no config.toml)")
        return cls(path)

    @classmethod
    def await_ready(cls, path: Path, seconds: float) -> "Run":
        """Open the run that the leading node makes, once its data is checked and training may begin.

        Raises:
            MissingError: that did not come within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (path / "manifest.json").is_file() and "tokenizer_fingerprint" in (
                run := cls.open(path)
            ).manifest():
                return run
            time.sleep(0.2)
        raise MissingError(
            f"{path}: node 0 did not make this run ready within {seconds:g} s; "
            "does it run, and do both nodes see the folder under this path?"
        )

    def config(self) -> RunConfig:
        """The configuration in config.toml."""
        return validate(read_toml(self.path / "config.toml"), {})

    def began_with(self) -> RunConfig:
        """The configuration that the manifest recorded, which config.toml must still be."""
        recorded = self.manifest().get("config")
        return validate(recorded, {}) if recorded else self.config()

    def change_config(self, config: RunConfig, difference: str) -> None:
        """Go on with another configuration from here; the manifest keeps what was changed."""
        manifest = self.manifest()
        manifest.setdefault("config_changes", []).append(difference)
        manifest["config"] = config.model_dump(mode="json", exclude_none=True)
        if manifest["state"] == "finished" and config.train.steps > manifest["launches"][-1]["last_step"]:
            manifest["state"] = "stopped"
        self._write_config(config)
        self.write_manifest(manifest)

    def _write_config(self, config: RunConfig) -> None:
        document = config.model_dump(mode="json", exclude_none=True)
        replace_text(self.path / "config.toml", tomli_w.dumps(document))

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands.

        Raises:
            DamagedError: it is missing or not JSON.
        """
        path = self.path / "manifest.json"
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise DamagedError(f"{path}: {error}") from error
        return manifest

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest in one step."""
        replace_text(self.path / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    def last_rows(self) -> dict[str, dict[str, Any]]:
        """The last line of each kind in metrics.jsonl."""
        with self.metrics.open(encoding="utf-8") as lines:
            return {row["kind"]: row for row in map(json.loads, lines)}

    def last_world_size(self) -> int | None:
        """How many processes trained it last; None before the first launch."""
        launches = self.manifest()["launches"]
        return int(launches[-1]["devices"]) if launches else None

    @property
    def resume_command(self) -> str:
        """What goes on with this run."""
        verb = "finetune" if "task" in self.manifest() else "pretrain"
        return f"`fpm {verb} --resume --out {self.path}`"

    def corpus_path(self) -> Path:
        """The corpus the run trains on; relative paths are inside the run.

        Raises:
            MissingError: its weights were imported, and came without one.
        """
        corpus = self.manifest()["corpus"]
        if corpus is None:
            raise MissingError(
                f"{self.path}: imported weights have no corpus; `fpm evaluate lm` takes one with --corpus"
            )
        return self.path / str(corpus)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for one process at a time; the kernel's lock (flock) dies with its holder.

        Raises:
            UsageError: another process holds it; says which.
        """
        lock, holder = FileLock(self.path / ".lock"), self.path / ".lock-holder"
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            who = holder.read_text(encoding="utf-8").strip() if holder.exists() else "not known"
            raise UsageError(f"{self.path}: another process is training in it ({who})") from error
        try:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            replace_text(holder, f"pid {os.getpid()} on {socket.gethostname()} since {now}\n")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def note(self, **facts: float | None) -> None:
        """Record in the manifest what the progress line and `fpm cost-report` account with.

        `price_per_device_hour`: in any currency; `cpu_peak_flops`: of all cores together, FLOP/s.
        """
        known = {name: value for name, value in facts.items() if value is not None}
        self.write_manifest({**self.manifest(), **known})

    def begin_launch(self, *, devices: int, device_name: str, first_step: int) -> None:
        """Record that training starts now; `end_launch` closes the entry."""
        manifest = self.manifest()
        manifest["state"] = "running"
        manifest["launches"].append(
            {
                "command": sys.argv,
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "devices": devices,
                "device_name": device_name,
                "first_step": first_step,
                "last_step": first_step,
                "seconds": 0.0,
            }
        )
        self.write_manifest(manifest)

    def update_launch(self, *, last_step: int, seconds: float, state: str) -> None:
        """Bring the open launch entry up to date: at each checkpoint and at the end."""
        manifest = self.manifest()
        manifest["state"] = state
        manifest["launches"][-1].update(last_step=last_step, seconds=round(seconds, 3))
        self.write_manifest(manifest)


def newest_run(runs: Path = RUNS, *, finished: bool = False, task: str | None = None) -> Run:
    """The run under `runs` that was changed last, of those fine-tuned for `task`; None: the pretrained ones.

    Raises:
        MissingError: there is none.
    """
    found = [Run(path.parent) for path in runs.glob("*/config.toml")]
    found = [run for run in found if run.manifest().get("task") == task]
    if finished:
        found = [run for run in found if run.manifest()["state"] == "finished"]
    if not found:
        kind = f"{'finished ' if finished else ''}run{f' of {task}' if task else ''}"
        how = f"fpm finetune {task}" if task else "fpm pretrain"
        raise MissingError(f"no {kind} under {runs}/; name one, or train one with `{how}`")
    return max(found, key=lambda run: (run.path / "manifest.json").stat().st_mtime_ns)


def _git_revision() -> str | None:
    """The revision of the code that runs, where it runs from a checkout."""
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def _versions() -> dict[str, str]:
    packages = ("torch", "deepspeed", "numpy", "tokenizers", "sentencepiece")
    return {"fpm": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}}
