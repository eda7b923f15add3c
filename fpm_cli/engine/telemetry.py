"""What a launch records while it trains: metrics, progress lines, and its entry in the manifest."""

import time
from collections.abc import Callable, Sequence

import torch

from fpm_cli.accounting.flops import StepFlops
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.deepspeed_engine import StepResult
from fpm_cli.engine.memory import peak_memory_bytes
from fpm_cli.engine.metrics_writer import MetricsWriter
from fpm_cli.engine.progress_log import ProgressLog
from fpm_cli.engine.workload import ValidationResult
from fpm_cli.engine.world import World
from fpm_cli.runs.run import Run


class Telemetry:
    """What the training loop reports to; this class, for all ranks but the main one, records nothing."""

    def step(self, step: int, result: StepResult, lr: float, seconds: float, last_step: int) -> None:
        """Optimizer step `step` (counted from 1), which took `seconds`; the run ends at `last_step`."""

    def validating(self, done: int, total: int | None) -> None:
        """A validation has made `done` of `total` forward passes."""

    def validation(self, step: int, result: ValidationResult) -> None:
        """A validation after `step` optimizer steps."""

    def saves(self, steps: Sequence[int], state: str) -> None:
        """Checkpoints that have become durable; the run's `state` is running, stopped or finished."""

    def rewind(self, step: int, message: str) -> None:
        """Training continues from `step`: later steps will be recorded as they are trained again."""

    def flush(self) -> None:
        """Make the metrics so far durable."""

    def close(self) -> None:
        """Flush and close all files."""


class RunTelemetry(Telemetry):
    """The main rank's record of one launch."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        world: World,
        first_step: int,
        step_flops: Callable[[int], StepFlops],
        *,
        quiet: bool,
    ):
        """`step_flops` gives what an optimizer step (counted from 1) computes over all ranks."""
        self.run, self.config, self.world, self._step_flops = run, config, world, step_flops
        self._last_step = first_step  # the last one recorded
        self._log = ProgressLog(run, config, world, first_step, quiet=quiet)
        self._writer = MetricsWriter(run, first_step)
        self._began = time.monotonic()
        run.begin_launch(
            devices=world.size,
            device_name=world.device_name,
            threads_per_process=torch.get_num_threads() if world.device.type == "cpu" else None,
            first_step=first_step,
        )

    @property
    def seconds(self) -> float:
        """Wall time since this launch began to train."""
        return time.monotonic() - self._began

    def step(self, step: int, result: StepResult, lr: float, seconds: float, last_step: int) -> None:
        """See `Telemetry`."""
        self._last_step, flops = step, self._step_flops(step)
        self._writer.write(
            {
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
                "memory_bytes": peak_memory_bytes(self.world.device),
            }
        )
        if result.skipped:
            self._event("skip", step, f"skipped: {result.skipped}")
        launch_seconds = self.seconds
        self._log.step(
            step,
            result,
            flops,
            lr,
            step_seconds=seconds,
            launch_seconds=launch_seconds,
            last_step=last_step,
        )
        if result.layers:
            self._writer.write_layers(step, result.layers)
        if step % self.config.train.log_every == 0:  # steps that a kill loses are charged up to here
            self._update_launch(launch_seconds, "running")

    def validating(self, done: int, total: int | None) -> None:
        """See `Telemetry`."""
        self._log.validating(done, total)

    def validation(self, step: int, result: ValidationResult) -> None:
        """See `Telemetry`."""
        terms = result.losses if len(result.losses) > 1 else {}
        self._writer.write(
            {"kind": "validation", "step": step, "loss": result.loss, **terms, **result.scores}
        )
        scores = "".join(f"  {name.replace('_', ' ')} {score:.4f}" for name, score in result.scores.items())
        self._log.message(step, f"validation loss {result.loss:.4f}{scores}")

    def saves(self, steps: Sequence[int], state: str) -> None:
        """See `Telemetry`."""
        for saved in steps:
            self._update_launch(self.seconds, state)
            self._event("save", saved, f"saved checkpoints/step-{saved}")

    def rewind(self, step: int, message: str) -> None:
        """See `Telemetry`."""
        self._writer.close()
        self._writer = MetricsWriter(self.run, step)
        self._event("rewind", step, message)

    def flush(self) -> None:
        """See `Telemetry`."""
        self._writer.flush()

    def close(self) -> None:
        """See `Telemetry`."""
        self._log.close()
        self._writer.close()

    def _update_launch(self, seconds: float, state: str) -> None:
        self.run.update_launch(
            last_step=self._last_step,
            seconds=seconds,
            state=state,
            peak_memory_bytes=peak_memory_bytes(self.world.device),
        )

    def _event(self, kind: str, step: int, message: str) -> None:
        self._writer.write({"kind": kind, "step": step, "message": message})
        self._log.message(step, message)
