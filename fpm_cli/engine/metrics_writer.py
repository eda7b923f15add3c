"""Writes a run's metrics: every row to metrics.jsonl, and its numbers to TensorBoard and a tracker."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any, TextIO

from fpm_cli.engine.layer_statistics import LayerValues
from fpm_cli.files import naming_errors
from fpm_cli.runs.metrics import drop_rows_after
from fpm_cli.runs.run import Run
from fpm_cli.runs.tracking import open_tracker, row_values


class MetricsWriter:
    """The records of one run, continued from `first_step`: rows of later steps are dropped.

    Steps that a resumed or rewound run trains again are recorded again.
    """

    def __init__(self, run: Run, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        drop_rows_after(run.metrics, first_step)
        self._path = run.metrics
        self._metrics: TextIO = run.metrics.open("a", encoding="utf-8")
        # TensorBoard drops events from `purge_step` on; those of `first_step` itself stay.
        self._tensorboard = SummaryWriter(str(run.path / "tensorboard"), purge_step=first_step + 1)
        self._tracker = open_tracker(run.config(), run.path, first_step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row with at least `kind` and `step`; its numbers become TensorBoard's `kind/name`."""
        self._append(row)
        for name, value in row.items():
            if isinstance(value, float) and math.isfinite(value):
                self._tensorboard.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        if self._tracker and (values := row_values(row)):
            self._tracker.log(values, row["step"])

    def write_layers(self, step: int, statistics: LayerValues) -> None:
        """Append a row of layer statistics; TensorBoard gets a curve per layer."""
        self._append({"kind": "layers", "step": step, **statistics})
        curves = {
            f"{name}/{layer}": value for name, values in statistics.items() for layer, value in values.items()
        }
        for curve, value in curves.items():
            self._tensorboard.add_scalar(curve, value, step)
        if self._tracker:
            self._tracker.log(curves, step)

    def flush(self) -> None:
        """Make the rows so far durable."""
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """Flush and close the files."""
        self._metrics.close()
        self._tensorboard.close()
        if self._tracker:
            self._tracker.close()

    def _append(self, row: Mapping[str, Any]) -> None:
        # JSON has no value for what is not finite.
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with naming_errors(self._path):
            self._metrics.write(json.dumps(row, allow_nan=False) + "\n")
            self._metrics.flush()
