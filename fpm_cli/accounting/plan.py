"""What a run would cost before it starts: size, FLOPs, memory, time, energy, money, and whether it fits."""

from dataclasses import dataclass
from typing import Any

from fpm_cli.accounting.calibration import Calibration
from fpm_cli.accounting.devices import Device, resolve_precision
from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.host_memory import HostMemory, host_memory
from fpm_cli.accounting.inference import FLOAT32, inference_bytes
from fpm_cli.accounting.memory import DeviceMemory, device_memory
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.step_time import step_time
from fpm_cli.accounting.throughput import StepTime
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.schema import Precision, RunConfig
from fpm_cli.errors import UsageError


@dataclass(frozen=True)
class Fit:
    """Whether a run fits, its start included: bytes on one device, and on one host for all of its ranks."""

    needed: int
    available: int
    host_needed: int = 0  # without the copies that saves are written from, which training does without
    host_available: int | None = None  # None: not known, and not judged

    @property
    def fits_device(self) -> bool:
        """Whether the device has room."""
        return self.needed <= self.available

    @property
    def fits_host(self) -> bool:
        """Whether the host has room."""
        return self.host_available is None or self.host_needed <= self.host_available

    @property
    def fits(self) -> bool:
        """Whether everything needed is there."""
        return self.fits_device and self.fits_host


@dataclass(frozen=True)
class Plan:
    """A run's cost on given devices, and the assumptions that it rests on."""

    exact_params: int
    tokens_per_step: int
    model_flops_per_step: int
    hardware_flops_per_step: int
    memory: DeviceMemory
    fit: Fit
    host: HostMemory
    time: StepTime | None
    precision: Precision
    device: Device
    num_devices: int
    micro_batch: int
    passes_per_step: int
    steps: int
    price_per_device_hour: float | None
    command: str
    assumptions: tuple[str, ...]
    inference: dict[str, int]  # bytes that using the trained run will take, see `inference_bytes`

    @property
    def predicted_seconds_per_step(self) -> float | None:
        """None where the device's speed is not known."""
        return self.time.seconds if self.time else None

    @property
    def hours(self) -> float | None:
        """Of all steps."""
        return self.time.seconds * self.steps / 3600 if self.time else None

    @property
    def device_hours(self) -> float | None:
        """Hours times devices."""
        return None if self.hours is None else self.hours * self.num_devices

    @property
    def kilowatt_hours(self) -> float | None:
        """An upper bound: every device at its board power all the time, without host and cooling."""
        if self.device_hours is None or self.device.watts is None:
            return None
        return self.device_hours * self.device.watts / 1000

    @property
    def price(self) -> float | None:
        """In the currency of the price a device-hour."""
        if self.device_hours is None or self.price_per_device_hour is None:
            return None
        return self.device_hours * self.price_per_device_hour

    @property
    def predicted_mfu(self) -> float | None:
        """Model FLOPs over the peak of all devices in the predicted time."""
        peak = self.device.peak(self.precision)
        if self.time is None or peak is None:
            return None
        return self.model_flops_per_step / (self.time.seconds * self.num_devices * peak)

    def document(self) -> dict[str, Any]:
        """The JSON document of `fpm pretrain --dry-run`."""
        return {
            "exact_params": self.exact_params,
            "tokens_per_step": self.tokens_per_step,
            "model_flops_per_step": self.model_flops_per_step,
            "hardware_flops_per_step": self.hardware_flops_per_step,
            "memory_per_device_bytes": self.memory.document(),
            "memory_available_bytes": self.fit.available,
            "host_bytes": self.host.total,
            "host_bytes_by_part": self.host.document(),
            "host_available_bytes": self.fit.host_available,
            "inference_bytes": self.inference,
            "fits": self.fit.fits,
            "predicted_seconds_per_step": self.predicted_seconds_per_step,
            "predicted_mfu": self.predicted_mfu,
            "predicted_hours": self.hours,
            "predicted_device_hours": self.device_hours,
            "predicted_kilowatt_hours": self.kilowatt_hours,
            "predicted_price": self.price,
            "bound_by": self.time.bound if self.time else None,
            "device": self.device.name,
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
    price_per_device_hour: float | None = None,
    calibration: Calibration | None = None,
    command: str | None = None,
    compiled: bool = False,
) -> Plan:
    """Plan a run.

    Args:
        config: the run.
        device: from `find_device`; for `cpu`, ranks share the machine's memory.
        num_devices: data-parallel ranks.
        price_per_device_hour: in any currency.
        calibration: this machine's speed, for `cpu`.
        command: what the user would type; by default the preset's plain command.
        compiled: whether the compiled operators are built, for `cpu`.

    Raises:
        UsageError: no devices, a global batch that does not divide over them, or a negative price.
    """
    if num_devices < 1:
        raise UsageError(f"{num_devices} devices: at least 1 is needed")
    if price_per_device_hour is not None and price_per_device_hour < 0:
        price = f"{price_per_device_hour:g}"
        raise UsageError(f"a price of {price} a device-hour: 0 or more; did you mean {price.lstrip('-')}?")
    precision = resolve_precision(config, device)
    split = split_batch(config.train, num_devices)
    compiled = compiled and device.is_cpu
    memory = device_memory(
        config,
        precision,
        split,
        cpu=device.is_cpu,
        compiled=compiled,
        ranks_per_server=device.devices_per_server,
    )
    local_ranks = num_devices if device.is_cpu else min(num_devices, device.devices_per_server)
    host = host_memory(memory, local_ranks, cpu=device.is_cpu)
    available = device.memory_bytes // (num_devices if device.is_cpu else 1)
    flops = step_flops(config)
    return Plan(
        exact_params=count_parameters(config),
        tokens_per_step=flops.tokens,
        model_flops_per_step=flops.model,
        hardware_flops_per_step=flops.hardware,
        memory=memory,
        fit=Fit(memory.needed, available, host.needed, device.host_bytes),
        host=host,
        time=step_time(config, device, precision, num_devices, calibration),
        precision=precision,
        device=device,
        num_devices=num_devices,
        micro_batch=split.micro_batch,
        passes_per_step=split.num_micro_batches,
        steps=config.train.steps,
        price_per_device_hour=price_per_device_hour,
        command=command or f"fpm pretrain --preset {config.name}{' --proxy' if config.proxy else ''}",
        assumptions=_assumptions(config, device, precision, calibration, host),
        inference=inference_bytes(
            config, count_parameters(config), 2 if "bf16" in device.peak_flops else FLOAT32
        ),
    )


def fits_here(
    config: RunConfig,
    available_bytes: int,
    num_devices: int,
    *,
    cpu: bool,
    has_bf16: bool,
    compiled: bool = False,
    local_ranks: int = 1,
    host_bytes: int | None = None,
) -> Fit:
    """Whether a run fits into `available_bytes` on each of `num_devices`, and its hosts' memory.

    For a launch, which knows its devices: on a CPU pass the machine's free memory divided by the number of
    ranks.

    Args:
        config: the run.
        available_bytes: free bytes on one device.
        num_devices: data-parallel ranks.
        cpu: whether the ranks run on the processor.
        has_bf16: whether the device computes in bf16, which `engine.precision = "auto"` then means.
        compiled: whether the layers run as compiled operators there.
        local_ranks: of them on each host.
        host_bytes: free memory of each host; None: not judged.

    Raises:
        UsageError: the global batch does not divide over the devices.
    """
    precision = config.engine.resolve_precision(has_bf16=has_bf16)
    split = split_batch(config.train, num_devices)
    memory = device_memory(config, precision, split, cpu=cpu, compiled=compiled, ranks_per_server=local_ranks)
    host = host_memory(memory, local_ranks, cpu=cpu)
    return Fit(memory.needed, available_bytes, host.needed, host_bytes)


def _assumptions(
    config: RunConfig,
    device: Device,
    precision: Precision,
    calibration: Calibration | None,
    host: HostMemory,
) -> tuple[str, ...]:
    assumptions = [f"device: {device.source}", _time_assumption(device, precision, calibration)]
    assumptions.append(_host_assumption(device, host))
    assumptions.append(
        "model FLOPs count causal attention in full; hardware FLOPs add the layers' recomputation"
    )
    if not device.is_cpu:
        assumptions.append("energy: board power all the time, an upper bound; host and cooling not counted")
    if config.engine.offload != "none" and not device.is_cpu:
        assumptions.append("offload: PCIe 4 x16 at 25 GB/s a device; the host's own Adam is not timed")
    return tuple(assumptions)


def _host_assumption(device: Device, host: HostMemory) -> str:
    if device.host_bytes is None:
        return f"host: the memory of {device.name}'s server is not known; --host-memory says it"
    room = "" if host.total <= device.host_bytes else "; saves hold training up, without room for their copy"
    ranks = f"{host.local_ranks} rank{'s' if host.local_ranks > 1 else ''}"
    return f"host: {device.host_bytes / 1e9:,.0f} GB for {ranks}, {device.host_source}{room}"


def _time_assumption(device: Device, precision: Precision, calibration: Calibration | None) -> str:
    if device.is_cpu and calibration is None:
        return "time: this machine's speed is unknown; `fpm plan --calibrate` measures it in half a minute"
    if device.is_cpu and calibration:
        return f"time: this machine as calibrated on {calibration.measured_at}, {calibration.threads} threads"
    peak = device.peak(precision)
    if peak is None:
        return f"time: {device.name} has no {precision} peak, so none is predicted"
    stands_in = "" if device.speed_of == device.name else f", taken to be like {device.speed_of}'s"
    return (
        f"time: the dense {precision} peak of {peak / 1e12:.4g} TFLOP/s less the losses of 174 published "
        f"GPT runs (llm-foundry){stands_in}"
    )
