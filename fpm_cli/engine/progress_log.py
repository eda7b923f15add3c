"""The lines on stderr while a run trains: each `log_every`-th step, and on a terminal the current step."""

import psutil
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from fpm_cli import cuda
from fpm_cli.accounting.devices import CPU, identify
from fpm_cli.accounting.flops import StepFlops
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.deepspeed_engine import StepResult
from fpm_cli.engine.world import World, has_native_bf16
from fpm_cli.runs.run import Run

ERASE_LINE = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))


class ProgressLog:
    """Step, loss, learning rate, gradient norm, speed, memory, time left and, with a price, the cost."""

    def __init__(self, run: Run, config: RunConfig, world: World, first_step: int, *, quiet: bool):
        self.first_step, self.log_every = first_step, config.train.log_every
        self.peak_flops = _peak_flops(config, world, run)
        self.cost = _Cost(run, world)
        self.console = Console(stderr=True, quiet=quiet, highlight=False)

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
        """The line of optimizer step `step`, which took `step_seconds` of the launch's seconds so far."""
        is_kept = step % self.log_every == 0 or step in (1, last_step)
        if not is_kept and not self.console.is_terminal:
            return
        seconds_left = (last_step - step) * launch_seconds / (step - self.first_step)
        line = (
            f"step {step:>6}/{last_step}  loss {result.loss:.4f}  lr {lr:.2e}  "
            f"grad {result.gradient_norm:.2f}  {flops.tokens / step_seconds:,.0f} tokens/s"
            f"{self._utilisation(flops, step_seconds)}  {_memory_gib():.1f} GiB  "
            f"left {_clock(seconds_left)}{self.cost.text(launch_seconds)}"
        )
        self._print(line, is_kept=is_kept)

    def _print(self, line: str, *, is_kept: bool = True) -> None:
        """Print a line; one that is not kept is cut to the terminal's width and replaced by the next one."""
        if self.console.is_terminal:
            self.console.control(ERASE_LINE)
        if is_kept:
            self.console.print(line, markup=False, soft_wrap=True)
        else:
            width = max(1, self.console.width - 1)  # a full line would move the cursor to the next one
            self.console.print(line[:width], markup=False, soft_wrap=True, end="")

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


def _memory_gib() -> float:
    used = cuda.peak_bytes() if cuda.count() else psutil.Process().memory_info().rss
    return used / 2**30


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
