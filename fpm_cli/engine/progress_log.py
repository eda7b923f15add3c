"""What stderr shows while a run trains: a line for each `log_every`-th step, and on a terminal a bar."""

import time

from rich.console import Console
from rich.progress import TaskID

from fpm_cli.accounting.devices import CPU, identify
from fpm_cli.accounting.flops import StepFlops
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.deepspeed_engine import StepResult
from fpm_cli.engine.memory import peak_memory_bytes
from fpm_cli.engine.world import World, has_native_bf16
from fpm_cli.progress_bars import Pace, StatusBars, clock, make_bars, shows_bars
from fpm_cli.runs.run import Run


class ProgressLog:
    """Step, loss, learning rate, gradient norm, speed, memory, time left and, with a price, the cost.

    On a terminal a bar shows the current step, and a second one a validation; without one, each
    `log_every`-th step is a line.
    """

    def __init__(self, run: Run, config: RunConfig, world: World, first_step: int, *, quiet: bool):
        self.log_every, self.world = config.train.log_every, world
        self.peak_flops = _peak_flops(config, world, run)
        self.cost = _Cost(run, world)
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._pace = Pace(first_step)
        self._bars: StatusBars | None = None
        self._training: TaskID | None = None
        self._validation: TaskID | None = None

    def message(self, step: int, message: str) -> None:
        """A line on something that happened after `step` steps."""
        self._print(f"step {step:>6}  {message}")

    def step(
        self,
        step: int,
        result: StepResult,
        flops: StepFlops,
        lr: float,
        *,
        step_seconds: float,
        launch_seconds: float,
        last_step: int,
    ) -> None:
        """Show optimizer step `step`, which took `step_seconds` of the launch's seconds so far."""
        has_bars, is_kept = shows_bars(self.console), step % self.log_every == 0 or step in (1, last_step)
        if not is_kept and not has_bars:
            return
        self._pace.began = time.monotonic() - launch_seconds
        self._pace.update(step)
        values = f"loss {result.loss:.4f}  lr {lr:.2e}  grad {result.gradient_norm:.2f}"
        speed = f"{flops.tokens / step_seconds:,.0f} tokens/s{self._utilisation(flops, step_seconds)}"
        rest, cost = f"{peak_memory_bytes(self.world.device) / 2**30:.1f} GiB", self.cost.text(launch_seconds)
        if has_bars:
            self._show_bar(step, last_step, f"  {values}  {speed}  {rest}{cost}")
            if is_kept:
                self._print(f"step {step:>6}  {values}  {speed}")
        else:
            left = clock(self._pace.seconds_left(last_step) or 0.0)
            self._print(f"step {step:>6}/{last_step}  {values}  {speed}  {rest}  left {left}{cost}")

    def validating(self, done: int, total: int | None) -> None:
        """Show that a validation has made `done` of `total` forward passes."""
        if self._bars is None or total is None:
            return
        if self._validation is None:
            self._validation = self._bars.add_task("validating", total=total, unit="passes", pace=Pace())
        task = self._bars.tasks[self._bars.task_ids.index(self._validation)]
        task.fields["pace"].update(done)
        self._bars.update(self._validation, completed=done, total=total)
        if done == total:
            self._bars.remove_task(self._validation)
            self._validation = None

    def close(self) -> None:
        """Remove the bars."""
        if self._bars:
            self._bars.stop()
            self._bars = None

    def _show_bar(self, step: int, last_step: int, status: str) -> None:
        if self._bars is None:
            self._bars = make_bars(self.console)
            self._bars.start()
            self._training = self._bars.add_task("training", total=last_step, unit="steps", pace=self._pace)
        assert self._training is not None
        self._bars.status = status
        self._bars.update(self._training, completed=step, total=last_step)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def _utilisation(self, flops: StepFlops, seconds: float) -> str:
        """MFU, and HFU where recomputation makes it another figure."""
        if not self.peak_flops:
            return ""
        text = f"  MFU {flops.model / seconds / self.peak_flops:5.1%}"
        if flops.hardware != flops.model:
            text += f"  HFU {flops.hardware / seconds / self.peak_flops:5.1%}"
        return text


class _Cost:
    """Money since the run began: every launch's device-hours at the run's price, if it has one."""

    def __init__(self, run: Run, world: World):
        manifest = run.manifest()
        self.price = manifest.price_per_device_hour
        self.num_devices = world.size
        self.earlier_seconds = sum(launch.device_seconds for launch in manifest.launches)

    def text(self, launch_seconds: float) -> str:
        """For the progress line; empty without a price."""
        if self.price is None:
            return ""
        device_seconds = self.earlier_seconds + launch_seconds * self.num_devices
        return f"  cost {device_seconds / 3600 * self.price:,.2f}"


def _peak_flops(config: RunConfig, world: World, run: Run) -> float | None:
    """The dense peak of all devices together at the run's precision, where it is known.

    A GPU's is in the data file; that of a processor was measured by `fpm plan --calibrate`.
    """
    if world.device_name == CPU:
        return run.manifest().cpu_peak_flops
    device = identify(world.device_name)
    precision = config.engine.resolve_precision(has_bf16=has_native_bf16(world.device))
    peak = device.peak(precision) if device else None
    return peak * world.size if peak else None
