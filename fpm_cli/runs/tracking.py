"""Sends the rows of metrics.jsonl to an experiment tracker as well: trackio, Weights & Biases or MLflow.

Each is an optional dependency. Unless `track.online` is set, everything stays on this machine:

- trackio: in its own folder (`trackio show`),
- wandb: in the run folder, from where `wandb sync` sends it,
- mlflow: in `mlflow.db` beside the run folder (`mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`).
"""

import contextlib
import importlib.util
import io
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fpm_cli.config.resolve import flatten
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import MissingError, install_hint

log = logging.getLogger(__name__)
FLUSH_SECONDS = 5.0  # MLflow: between two transactions
MLFLOW_BATCH = 1000  # metrics that one of its requests takes
# Switches off what the libraries report about their own use.
NO_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
TRACKIO_SERVERS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")


class Tracker(ABC):
    """One launch of a run in a tracker."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values of an optimizer step; the names are `kind/name`."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


def require_tool(config: RunConfig) -> None:
    """Refuse a configuration whose tracker is not installed.

    Raises:
        MissingError: says what to install.
    """
    tool = config.track.tool if config.track else "none"
    if tool != "none" and importlib.util.find_spec(tool) is None:
        raise MissingError(
            f"track.tool = '{tool}': it is not installed; {install_hint(tool)}, or --set track.tool=none"
        )


def open_tracker(config: RunConfig, run: Path, first_step: int) -> Tracker | None:
    """The tracker that the configuration names; None for none.

    Each launch is a run of its own there: `NAME`, and `NAME-from-STEP` for one that continues.

    Raises:
        MissingError: it is not installed.
    """
    require_tool(config)
    if config.track is None or config.track.tool == "none":
        return None
    os.environ.update(NO_TELEMETRY)
    name = f"{run.resolve().name}{f'-from-{first_step}' if first_step else ''}"
    return _Guarded(TOOLS[config.track.tool], config, run, name)


def row_values(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl by `kind/name`."""
    return {
        f"{row['kind']}/{name}": value
        for name, value in row.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name != "step"
        and math.isfinite(value)
    }


class _Guarded(Tracker):
    """A tracker whose failure is logged once and ends tracking, not training; what it prints is dropped."""

    def __init__(self, kind: type[Tracker], config: RunConfig, run: Path, name: str) -> None:
        self._tracker: Tracker | None = None
        with self._guarding():
            self._tracker = kind(config, run, name)  # type: ignore[call-arg]

    def log(self, values: Mapping[str, float], step: int) -> None:
        with self._guarding():
            if self._tracker:
                self._tracker.log(values, step)

    def close(self) -> None:
        with self._guarding():
            if self._tracker:
                self._tracker.close()

    @contextlib.contextmanager
    def _guarding(self) -> Iterator[None]:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except Exception as error:
            log.warning("tracking ends, metrics.jsonl goes on: %s: %s", type(error).__name__, error)
            self._tracker = None


class _Trackio(Tracker):
    def __init__(self, config: RunConfig, run: Path, name: str) -> None:
        assert config.track
        import trackio

        with contextlib.nullcontext() if config.track.online else _without(TRACKIO_SERVERS):
            self._finish = trackio.finish  # its run's own leaves a handler that prints at the end
            self._run = trackio.init(
                project=config.track.project,
                name=name,
                group=run.resolve().name,
                config=_settings(config),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._finish()


class _Wandb(Tracker):
    def __init__(self, config: RunConfig, run: Path, name: str) -> None:
        assert config.track
        import wandb

        self._run = wandb.init(
            project=config.track.project,
            name=name,
            group=run.resolve().name,
            dir=str(run),
            mode="online" if config.track.online else "offline",
            config=_settings(config),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow(Tracker):
    def __init__(self, config: RunConfig, run: Path, name: str) -> None:
        assert config.track
        from mlflow import MlflowClient

        folder = run.resolve().parent
        client = MlflowClient(None if config.track.online else f"sqlite:///{folder / 'mlflow.db'}")
        known = client.get_experiment_by_name(config.track.project)
        where = None if config.track.online else (folder / "mlflow").as_uri()
        experiment = known.experiment_id if known else client.create_experiment(config.track.project, where)
        self._client, self._id = client, client.create_run(experiment, run_name=name).info.run_id
        for key, value in _settings(config).items():
            client.log_param(self._id, key, value)
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        self._waiting += [Metric(key, float(value), now, step) for key, value in values.items()]
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._client.set_terminated(self._id)

    def _flush(self) -> None:
        for start in range(0, len(self._waiting), MLFLOW_BATCH):
            self._client.log_batch(self._id, metrics=self._waiting[start : start + MLFLOW_BATCH])
        self._waiting, self._flushed = [], time.monotonic()


TOOLS: dict[str, type[Tracker]] = {"trackio": _Trackio, "wandb": _Wandb, "mlflow": _Mlflow}


def _settings(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in flatten(config) if value is not None}


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """These environment variables are not set."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
