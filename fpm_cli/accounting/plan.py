"""What a run would cost before it starts: size, FLOPs, memory, time, and whether it fits."""

from dataclasses import dataclass
from typing import Any

from fpm_cli.accounting.devices import Device, Precision, resolve_precision
from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.memory import DeviceMemory, device_memory
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.step_time import REALISTIC_FRACTION, StepTime, layout, step_time
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError


@dataclass(frozen=True)
class Fit:
    """Whether a step fits, in bytes on one device."""

    needed: int
    available: int

    @property
    def fits(self) -> bool:
        """Whether everything needed is there."""
        return self.needed <= self.available


@dataclass(frozen=True)
class Plan:
    """A run's cost on given devices, and the assumptions that it rests on."""

    exact_params: int
    tokens_per_step: int
    model_flops_per_step: int
    hardware_flops_per_step: int
    memory: DeviceMemory
    fit: Fit
    time: StepTime | None
    precision: Precision
    device: str
    num_devices: int
    micro_batch: int
    passes_per_step: int
    steps: int
    command: str
    assumptions: tuple[str, ...]

    @property
    def predicted_seconds_per_step(self) -> float | None:
        """None where the device's speed is not known."""
        return self.time.seconds if self.time else None

    def document(self) -> dict[str, Any]:
        """The JSON document of `fpm pretrain --dry-run`."""
        seconds = self.predicted_seconds_per_step
        return {
            "exact_params": self.exact_params,
            "tokens_per_step": self.tokens_per_step,
            "model_flops_per_step": self.model_flops_per_step,
            "hardware_flops_per_step": self.hardware_flops_per_step,
            "memory_per_device_bytes": self.memory.document(),
            "memory_available_bytes": self.fit.available,
            "fits": self.fit.fits,
            "predicted_seconds_per_step": seconds,
            "predicted_hours": seconds * self.steps / 3600 if seconds else None,
            "bound_by": self.time.bound if self.time else None,
            "device": self.device,
            "num_devices": self.num_devices,
            "precision": self.precision,
            "micro_batch": self.micro_batch,
            "passes_per_step": self.passes_per_step,
            "steps": self.steps,
            "command": self.command,
            "assumptions": list(self.assumptions),
        }


def plan(
    config: RunConfig,
    device: Device,
    num_devices: int,
    *,
    command: str | None = None,
    fraction: float = REALISTIC_FRACTION,
) -> Plan:
    """Plan a run.

    Args:
        config: the run.
        device: from `find_device`; for `cpu`, ranks share the machine's memory.
        num_devices: data-parallel ranks.
        command: what the user would type; by default the preset's plain command.
        fraction: of the device's dense peak that matrix products reach.

    Raises:
        UsageError: no devices, or a fraction outside (0, 1].
    """
    if num_devices < 1:
        raise UsageError(f"{num_devices} devices: at least one is needed, for example 8")
    if not 0 < fraction <= 1:
        raise UsageError(
            f"a fraction of {fraction:g} of the peak: write one above 0 and up to 1, for example 0.4"
        )
    precision = resolve_precision(config, device)
    spread = layout(config, num_devices)
    memory = device_memory(config, precision, spread.devices, spread.micro_batch, cpu=device.is_cpu)
    available = device.memory_bytes // (spread.devices if device.is_cpu else 1)
    flops = step_flops(config)
    return Plan(
        exact_params=count_parameters(config),
        tokens_per_step=flops.tokens,
        model_flops_per_step=flops.model,
        hardware_flops_per_step=flops.hardware,
        memory=memory,
        fit=Fit(memory.total, available),
        time=step_time(config, device, precision, spread.devices, fraction),
        precision=precision,
        device=device.name,
        num_devices=num_devices,
        micro_batch=spread.micro_batch,
        passes_per_step=spread.passes,
        steps=config.train.steps,
        command=command or f"fpm pretrain --preset {config.name}{' --proxy' if config.proxy else ''}",
        assumptions=_assumptions(config, device, precision, num_devices, spread.devices, fraction),
    )


def fits_here(config: RunConfig, available_bytes: int, num_devices: int, *, cpu: bool, bf16: bool) -> Fit:
    """Whether a training step fits into `available_bytes` on each of `num_devices`.

    For the engine, which knows its devices: on a CPU pass the machine's free memory divided by the
    number of ranks.

    Args:
        config: the run.
        available_bytes: free bytes on one device.
        num_devices: data-parallel ranks.
        cpu: whether the ranks run on the processor.
        bf16: whether the device has bf16, which `engine.precision = "auto"` then means.
    """
    precision = config.engine.precision
    if precision == "auto":
        precision = "bf16" if bf16 else "fp32"
    spread = layout(config, num_devices)
    return Fit(
        device_memory(config, precision, spread.devices, spread.micro_batch, cpu=cpu).total, available_bytes
    )


def _assumptions(
    config: RunConfig, device: Device, precision: Precision, num_devices: int, used: int, fraction: float
) -> tuple[str, ...]:
    said = [f"device: {device.source}"]
    peak = device.peak(precision)
    if peak is None:
        said.append(f"no {precision} peak is known for {device.name}, so no time is predicted")
    else:
        said.append(
            f"matrix products reach {fraction:.0%} of the dense {precision} peak of {peak / 1e12:.4g} "
            "TFLOP/s; memory and links run at their nominal bandwidth"
        )
    said.append("model FLOPs count causal attention in full; hardware FLOPs add the layers' recomputation")
    if used < num_devices:
        said.append(
            f"a batch of {config.train.global_batch} sequences keeps {used} of {num_devices} devices busy"
        )
    return tuple(said)
