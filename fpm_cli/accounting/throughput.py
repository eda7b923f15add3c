"""How far GPUs stay below their data sheets in training, fitted to published runs (`throughput.toml`)."""

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from fpm_cli.accounting.devices import Device
from fpm_cli.accounting.fit import fit_rates
from fpm_cli.accounting.work import Work
from fpm_cli.config.schema import Precision

FITTED_DEVICES = ("A100-40", "A100-80", "H100")
HOST_LINK = 25e9  # bytes/s, PCIe 4 x16 as measured in practice; an assumption, not fitted
ADAM_BYTES = 28  # read and written per parameter: float32 copy and two moments, gradient, parameter


@dataclass(frozen=True)
class Slowdowns:
    """Factors on the time at the data sheet's peak; `matmul` and `attention` by device."""

    matmul: dict[str, float]
    attention: dict[str, float]
    head: float
    activation_bytes: float
    head_bytes: float
    layer_pass_seconds: float
    optimizer: float
    in_server: float
    between_servers: float


@dataclass(frozen=True)
class StepTime:
    """Seconds by kind of work. The fitted rates include overlap, so the step takes the sum."""

    compute: float
    memory: float
    communication: float
    overhead: float  # launching operators, independent of their size

    @property
    def seconds(self) -> float:
        """The predicted time of one optimizer step."""
        return self.compute + self.memory + self.communication + self.overhead

    @property
    def bound(self) -> str:
        """The kind of work that takes longest."""
        return max(asdict(self).items(), key=lambda item: item[1])[0]


@cache
def published_slowdowns() -> Slowdowns:
    """The shipped fit."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return Slowdowns(table["matmul"], table["attention"], **table["every_device"])


def gpu_step_time(
    work: Work, device: Device, precision: Precision, num_devices: int, slowdowns: Slowdowns | None = None
) -> StepTime | None:
    """Seconds of a step on a GPU, or None where it has no peak for that precision."""
    ideal = _ideal(work, device, precision, num_devices)
    if ideal is None:
        return None
    fit = slowdowns or published_slowdowns()
    matmul, attention, head, activations, heads, passes, optimizer, inside, between = ideal
    return StepTime(
        compute=matmul * fit.matmul[device.speed_of]
        + attention * fit.attention[device.speed_of]
        + head * fit.head,
        memory=activations * fit.activation_bytes + heads * fit.head_bytes + optimizer * fit.optimizer,
        communication=inside * fit.in_server + between * fit.between_servers + work.host_bytes / HOST_LINK,
        overhead=passes * fit.layer_pass_seconds,
    )


def fit_slowdowns(runs: Sequence[tuple[Work, Device, Precision, int, float]]) -> Slowdowns:
    """Fit to measured runs: work, device, precision, number of devices, seconds per step."""
    rows, seconds = [], []
    for work, device, precision, num_devices, measured in runs:
        ideal = _ideal(work, device, precision, num_devices)
        assert ideal is not None, f"{device.name} has no {precision} peak"
        matmul, attention, *shared = ideal
        own = [device.speed_of == name for name in FITTED_DEVICES]
        rows.append([*(matmul * is_own for is_own in own), *(attention * is_own for is_own in own), *shared])
        seconds.append(measured)
    rates = fit_rates(rows, seconds)
    count = len(FITTED_DEVICES)
    return Slowdowns(
        dict(zip(FITTED_DEVICES, rates[:count], strict=True)),
        dict(zip(FITTED_DEVICES, rates[count : 2 * count], strict=True)),
        *rates[2 * count :],
    )


def _ideal(work: Work, device: Device, precision: Precision, num_devices: int) -> list[float] | None:
    """Seconds at the data sheet's peak by kind of work, and the number of layer passes."""
    peak = device.peak(precision)
    if peak is None or device.bandwidth is None or device.link_bandwidth is None:
        return None
    sent = work.sent_bytes / device.link_bandwidth
    one_server = num_devices <= device.devices_per_server
    return [
        work.matmul_flops / peak,
        work.attention_flops / peak,
        work.head_flops / peak,
        work.activation_bytes / device.bandwidth,
        work.head_bytes / device.bandwidth,
        work.layer_passes,
        work.optimizer_parameters * ADAM_BYTES / device.bandwidth,
        sent if one_server else 0.0,
        0.0 if one_server else sent,
    ]
