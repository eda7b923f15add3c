"""Seconds of a training step: the largest of what compute, memory and communication need.

A roofline (Williams et al. 2009). Compute runs at an assumed or calibrated fraction of the dense
peak; memory and links at their data-sheet bandwidth, so those two terms are lower bounds.
"""

import math
from dataclasses import dataclass

from fpm_cli.accounting.devices import Device, Precision
from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.sharding import ELEMENT_BYTES
from fpm_cli.config.schema import RunConfig

REALISTIC_FRACTION = (
    0.40  # of the dense peak: what well-tuned runs reach (PaLM 46 %, GPT-3 on A100 about 40 %)
)
NETWORK_BANDWIDTH = 25e9  # bytes/s a device between servers: one 200 Gbit/s adapter each


@dataclass(frozen=True)
class Layout:
    """How a global batch is spread: devices in use, sequences a forward pass, passes a step."""

    devices: int
    micro_batch: int
    passes: int


def layout(config: RunConfig, num_devices: int) -> Layout:
    """Spread `train.global_batch` evenly; devices beyond its largest divisor stay idle.

    Gradient accumulation makes up for what `train.micro_batch` leaves: passes a step =
    global_batch / (micro_batch * devices), the micro-batch being the largest that divides.
    """
    batch = config.train.global_batch
    devices = _largest_divisor(batch, num_devices)
    micro_batch = _largest_divisor(batch // devices, config.train.micro_batch)
    return Layout(devices, micro_batch, batch // devices // micro_batch)


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


@dataclass(frozen=True)
class StepTime:
    """Seconds of each term; the step takes the largest."""

    compute: float
    memory: float
    communication: float

    @property
    def seconds(self) -> float:
        """The predicted time of one optimizer step."""
        return max(self.compute, self.memory, self.communication)

    @property
    def bound(self) -> str:
        """Which term decides."""
        terms = {"compute": self.compute, "memory": self.memory, "communication": self.communication}
        return max(terms, key=lambda name: terms[name])


def step_time(
    config: RunConfig, device: Device, precision: Precision, num_devices: int, fraction: float
) -> StepTime | None:
    """Predict one optimizer step, or None where the device's peak is not known.

    Args:
        config: the run.
        device: its peak and bandwidths.
        precision: of the matrix products.
        num_devices: all devices of the run.
        fraction: of the dense peak that the matrix products reach.
    """
    peak = device.peak(precision)
    if peak is None:
        return None
    spread = layout(config, num_devices)
    compute = step_flops(config).hardware / spread.devices / (peak * fraction)
    memory = _memory_traffic(config, precision, spread) / device.bandwidth if device.bandwidth else 0.0
    return StepTime(compute, memory, _communication(config, device, precision, spread))


def _memory_traffic(config: RunConfig, precision: Precision, spread: Layout) -> float:
    """Bytes a device must move: weights each pass (forward, backward, again if recomputed), then Adam."""
    parameters, e = count_parameters(config), ELEMENT_BYTES[precision]
    reads = 3 if config.engine.recompute == "full" else 2
    shards = spread.devices if config.engine.zero_stage >= 1 else 1
    adam = parameters / shards * (4 * 6 + 2 * e)  # reads and writes of copy and moments; gradient, weight
    return parameters * e * (reads + 2) * spread.passes + adam


def _communication(config: RunConfig, device: Device, precision: Precision, spread: Layout) -> float:
    """Ring collectives: gradients once a step (each pass for ZeRO 2 and 3), ZeRO 3's parameters each pass."""
    if spread.devices == 1 or device.link_bandwidth is None:
        return 0.0
    one = (
        count_parameters(config) * ELEMENT_BYTES[precision] * (spread.devices - 1) / spread.devices
    )  # a reduce-scatter or an all-gather
    stage = config.engine.zero_stage
    gathers = (2 + (config.engine.recompute == "full")) * spread.passes if stage == 3 else 1
    scatters = spread.passes if stage >= 2 else 1
    servers = math.ceil(spread.devices / device.devices_per_server)
    # between servers, every device has its own adapter and the ring's slowest edge decides
    bandwidth = (
        device.link_bandwidth
        if servers == 1
        else min(device.link_bandwidth, NETWORK_BANDWIDTH * device.devices_per_server)
    )
    return one * (gathers + scatters) / bandwidth
