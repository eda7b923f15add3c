"""What a run tells while it trains: metrics.jsonl, TensorBoard, and lines on stderr.

Every number goes to metrics.jsonl; the screen shows each `log_every`-th step.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch
from rich.console import Console

from fpm_cli.accounting.devices import CPU, identify
from fpm_cli.accounting.flops import StepFlops
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.deepspeed_engine import StepResult, resolve_precision
from fpm_cli.engine.workload import Validation
from fpm_cli.engine.world import World
from fpm_cli.runs.run import Run


class Telemetry:
    """The leading rank's record of a launch; `step` and `evaluation` are called as they happen."""

    def __init__(self, run: Run, config: RunConfig, world: World, first_step: int, *, quiet: bool):
        self.run, self.config, self.first_step = run, config, first_step
        self.last_step = config.train.steps
        self.peak = _peak_flops(config, world, run)
        self.spent = _Spending(run, world)
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._open(first_step)
        self.began = time.monotonic()

    def _open(self, step: int) -> None:
        """Both records, as they were at `step`."""
        from torch.utils.tensorboard import SummaryWriter

        _drop_rows_after(self.run.metrics, step)
        self.metrics: TextIO = self.run.metrics.open("a", encoding="utf-8")
        self.tensorboard = SummaryWriter(str(self.run.path / "tensorboard"), purge_step=step)

    def step(self, step: int, result: StepResult, flops: StepFlops, lr: float, seconds: float) -> None:
        """Optimizer step `step` (counted from 1) computed `flops` in `seconds`."""
        row = {
            "kind": "train",
            "step": step,
            "loss": result.loss,
            **(result.losses if len(result.losses) > 1 else {}),
            "lr": lr,
            "grad_norm": result.gradient_norm,
            **({} if result.loss_scale is None else {"loss_scale": result.loss_scale}),
            **({} if result.skipped is None else {"skipped": result.skipped}),
            "seconds": seconds,
            "tokens": flops.tokens,
            "tokens_per_second": flops.tokens / seconds,
            "model_flops": flops.model,
            "hardware_flops": flops.hardware,
        }
        self._write(row)
        if result.skipped:
            self.event("skip", step, f"skipped: {result.skipped}")
        keep = step % self.config.train.log_every == 0 or step in (1, self.last_step)
        if keep or self.console.is_terminal:  # on a terminal the line of the moment, else only those to keep
            self._say_step(step, result, flops, lr, seconds, end="\n" if keep else "\r")

    def layers(self, step: int, statistics: Mapping[str, Mapping[str, float]]) -> None:
        """Statistics of each layer at optimizer step `step`: one line, and a curve a layer."""
        self._write({"kind": "layers", "step": step, **statistics})
        for name, values in statistics.items():
            for layer, value in values.items():
                self.tensorboard.add_scalar(f"{name}/{layer}", value, step)

    def evaluation(self, step: int, found: Validation) -> None:
        """What validation found after `step` optimizer steps."""
        terms = found.losses if len(found.losses) > 1 else {}
        self._write({"kind": "validation", "step": step, "loss": found.loss, **terms, **found.scores})
        scores = "".join(f"  {name.replace('_', ' ')} {score:.4f}" for name, score in found.scores.items())
        self.console.print(
            f"step {step:>6}  validation loss {found.loss:.4f}{scores}", markup=False, soft_wrap=True
        )

    def event(self, kind: str, step: int, message: str) -> None:
        """Something that is worth a line: a save, a stop, a resume."""
        self._write({"kind": kind, "step": step, "message": message})
        self.console.print(f"step {step:>6}  {message}", markup=False, soft_wrap=True)

    def go_back(self, step: int, message: str) -> None:
        """Training stands at `step` again: the steps after it will be recorded as they are trained anew."""
        self.metrics.close()
        self.tensorboard.close()
        self._open(step)
        self.event("rewind", step, message)

    def sync(self) -> None:
        """Make the rows so far durable."""
        os.fsync(self.metrics.fileno())

    @property
    def seconds(self) -> float:
        """Wall time since this launch began to train."""
        return time.monotonic() - self.began

    def close(self) -> None:
        """Flush and close the files."""
        self.metrics.close()
        self.tensorboard.close()

    def _write(self, row: dict[str, Any]) -> None:
        # JSON has no word for what is not finite.
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self.metrics.write(json.dumps(row, allow_nan=False) + "\n")
        self.metrics.flush()
        for name, value in row.items():
            if isinstance(value, float):
                self.tensorboard.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def _say_step(
        self, step: int, result: StepResult, flops: StepFlops, lr: float, seconds: float, *, end: str
    ) -> None:
        done = step - self.first_step
        left = (self.last_step - step) * self.seconds / done
        speed = f"{flops.tokens / seconds:,.0f} tokens/s{self._utilisation(flops, seconds)}"
        self.console.print(
            f"step {step:>6}/{self.last_step}  loss {result.loss:.4f}  lr {lr:.2e}  "
            f"grad {result.gradient_norm:.2f}  {speed}  "
            f"{_memory_gib():.1f} GiB  left {_clock(left)}{self.spent.said(self.seconds)}",
            markup=False,
            soft_wrap=True,
            end=end,
        )

    def _utilisation(self, flops: StepFlops, seconds: float) -> str:
        """MFU, and HFU where recomputation makes it another figure."""
        if not self.peak:
            return ""
        said = f"  MFU {flops.model / seconds / self.peak:5.1%}"
        if flops.hardware != flops.model:
            said += f"  HFU {flops.hardware / seconds / self.peak:5.1%}"
        return said


class _Spending:
    """Money since the run began: every launch's device-hours at the run's price, if it has one."""

    def __init__(self, run: Run, world: World):
        manifest = run.manifest()
        self.price: float | None = manifest.get("price_per_device_hour")
        self.devices = world.size
        self.before = sum(launch["seconds"] * launch["devices"] for launch in manifest["launches"])

    def said(self, seconds: float) -> str:
        """For the progress line, `seconds` into this launch."""
        if self.price is None:
            return ""
        return f"  cost {(self.before + seconds * self.devices) / 3600 * self.price:,.2f}"


def _peak_flops(config: RunConfig, world: World, run: Run) -> float | None:
    """The dense peak of all devices together at the run's precision, where it is known.

    A GPU's is in the data file; that of a processor was measured by `fpm plan --calibrate`.
    """
    if world.device_name == CPU:
        measured: float | None = run.manifest().get("cpu_peak_flops")
        return measured
    device = identify(world.device_name)
    peak = device.peak_flops.get(resolve_precision(config)) if device else None
    return peak * world.size if peak else None


def _drop_rows_after(metrics: Path, step: int) -> None:
    """Steps that are trained again are recorded again; a half-written last line goes too."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] <= step:
            kept.append(line + b"\n")
    temporary = metrics.with_suffix(".tmp")
    temporary.write_bytes(b"".join(kept))
    temporary.rename(metrics)


def _memory_gib() -> float:
    used = (
        torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
    )
    return float(used) / 2**30


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
