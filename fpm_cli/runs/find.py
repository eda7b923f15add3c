"""Finds run folders under `runs/`."""

import logging
from dataclasses import dataclass
from pathlib import Path

from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import FpmError, MissingError
from fpm_cli.runs.manifest import MANIFEST, RunManifest, RunState
from fpm_cli.runs.run import RUNS, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundRun:
    """A run folder whose configuration and manifest are readable."""

    run: Run
    config: RunConfig
    manifest: RunManifest
    changed: float  # when the manifest was last written, in nanoseconds since 1970


def find_runs(runs: Path = RUNS) -> list[FoundRun]:
    """Every readable run directly under `runs`, newest first; the others are passed over with a warning."""
    readable = []
    for path in sorted(runs.glob("*/config.toml")):
        run = Run(path.parent)
        try:
            config, manifest = run.config(), run.manifest()
            readable.append(FoundRun(run, config, manifest, (run.path / MANIFEST).stat().st_mtime_ns))
        except (FpmError, OSError) as error:
            log.warning("%s is passed over: %s", run.path, str(error).split("\n")[0])
    return sorted(readable, key=lambda entry: entry.changed, reverse=True)


def newest_run(runs: Path = RUNS, *, finished: bool = False, task: str | None = None) -> Run:
    """The run under `runs` that was changed last, of those fine-tuned for `task`; None: the pretrained ones.

    Raises:
        MissingError: there is none.
    """
    for entry in find_runs(runs):
        if (entry.manifest.task.name if entry.manifest.task else None) == task and (
            not finished or entry.manifest.state is RunState.finished
        ):
            return entry.run
    kind = f"{'finished ' if finished else ''}run{f' of {task}' if task else ''}"
    how = f"fpm finetune {task}" if task else "fpm pretrain"
    raise MissingError(f"no {kind} under {runs}/; name one, or train one with `{how}`")
