"""Devices and their limits: the vendors' figures in `devices.toml`, and this machine's own processor."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fpm_cli.config.schema import Precision, RunConfig
from fpm_cli.errors import UsageError, did_you_mean

CPU = "cpu"
PAPER_DEVICE = "A100-40"  # section 4.2: "A100 SXM3 40GB"


@dataclass(frozen=True)
class Device:
    """One accelerator or this machine. Units are FLOP/s, bytes, bytes/s, watts; None: not known."""

    name: str
    source: str
    peak_flops: Mapping[str, float]  # dense, by dtype
    memory_bytes: int
    bandwidth: float | None
    link_bandwidth: float | None  # one direction, between devices of a server
    devices_per_server: int
    watts: float | None
    host_bytes: int | None = None  # of a server with `devices_per_server` of them
    host_source: str = ""
    speed_of: str = ""  # the device whose fitted distance from its peak stands for this one's

    @property
    def is_cpu(self) -> bool:
        """Whether this is the machine's processor: ranks share its memory and its peak is measured."""
        return self.name == CPU

    def peak(self, precision: Precision) -> float | None:
        """Dense peak in FLOP/s for matrix products of that precision, or None if not known."""
        return self.peak_flops.get(precision)


@cache
def _vendor_devices() -> dict[str, Device]:
    table = tomllib.loads(Path(__file__).with_name("devices.toml").read_text(encoding="utf-8"))
    return {
        name: Device(
            name=name,
            source=entry["source"],
            peak_flops={dtype: tflops * 1e12 for dtype, tflops in entry["peak_tflops"].items()},
            memory_bytes=int(entry["memory_gb"] * 1e9),
            bandwidth=entry["bandwidth_gb_s"] * 1e9,
            link_bandwidth=entry["link_gb_s"] * 1e9,
            devices_per_server=entry["devices_per_server"],
            watts=entry["watts"],
            host_bytes=int(entry["host_gb"] * 1e9) if "host_gb" in entry else None,
            host_source=entry.get("host", ""),
            speed_of=entry["speed_of"],
        )
        for name, entry in table.items()
    }


def device_names() -> tuple[str, ...]:
    """Every name that `find_device` knows."""
    return (*_vendor_devices(), CPU)


def find_device(name: str) -> Device:
    """The device of that name, in any case; `cpu` is this machine.

    Raises:
        UsageError: no such device; names the nearest one.
    """
    if name.lower() == CPU:
        return this_machine()
    by_lower = {known.lower(): device for known, device in _vendor_devices().items()}
    if name.lower() not in by_lower:
        hint = did_you_mean(name, device_names()) or f"; known: {', '.join(device_names())}"
        raise UsageError(f"no device is called {name!r}{hint}")
    return by_lower[name.lower()]


def this_machine() -> Device:
    """This machine's processor: memory that is available now; the peak is unknown until it is calibrated."""
    import psutil

    available = psutil.virtual_memory().available
    return Device(
        name=CPU,
        source="this machine: available memory as the system reports it; speed unknown until calibrated",
        peak_flops={},
        memory_bytes=available,
        bandwidth=None,
        link_bandwidth=None,
        devices_per_server=1,
        watts=None,
        host_bytes=available,
        host_source="available now",
    )


def resolve_precision(config: RunConfig, device: Device) -> Precision:
    """What `engine.precision` means on that device."""
    return config.engine.resolve_precision(has_bf16="bf16" in device.peak_flops)


def identify(device_name: str) -> Device | None:
    """The vendor's entry for a name as a driver prints it (`NVIDIA A100-SXM4-40GB`), or None."""
    text = device_name.upper()
    for marks, name in (
        (("A100", "80GB"), "A100-80"),
        (("A100",), "A100-40"),
        (("H100",), "H100"),
        (("H200",), "H200"),
        (("B200",), "B200"),
        (("3090",), "RTX-3090"),
        (("4090",), "RTX-4090"),
        (("V100",), "V100"),
        (("L40S",), "L40S"),
        (("MI300X",), "MI300X"),
    ):
        if all(mark in text for mark in marks):
            return _vendor_devices()[name]
    return None
