"""The fastest settings with which a run fits in memory: sharding, recomputation, micro-batch, offload."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from fpm_cli.accounting.devices import Device, device_names, find_device
from fpm_cli.accounting.plan import Plan, plan
from fpm_cli.config.schema import RunConfig

RECOMPUTES = ("none", "selective", "full")
DEVICE_COUNTS = tuple(2**power for power in range(11))  # 1 to 1,024


@dataclass(frozen=True)
class FittingConfig:
    """Settings over the preset, and the plan that they give."""

    settings: dict[str, Any]
    plan: Plan

    @property
    def flags(self) -> str:
        """As typed after `fpm pretrain`."""
        return " ".join(f"--set {key}={value}" for key, value in self.settings.items())

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "num_devices": self.plan.num_devices,
            "fits": self.plan.fit.fits,
            "settings": self.settings,
            "memory_per_device_bytes": self.plan.memory.total,
            "host_bytes_per_device": self.plan.memory.host,
            "host_bytes": self.plan.host.total,
            "predicted_seconds_per_step": self.plan.predicted_seconds_per_step,
            "predicted_hours": self.plan.hours,
            "predicted_device_hours": self.plan.device_hours,
            "predicted_kilowatt_hours": self.plan.kilowatt_hours,
            "predicted_price": self.plan.price,
        }


def fastest_fitting(
    config: RunConfig, device: Device, num_devices: int, *, price_per_device_hour: float | None = None
) -> FittingConfig | None:
    """The fastest settings with which the run fits, or None; offload is tried only where nothing else fits.

    On given devices, less time is also less money and less energy.

    Raises:
        UsageError: the global batch does not divide over the devices.
    """

    def fitting(offload: bool) -> list[FittingConfig]:
        candidates = (
            FittingConfig(
                settings, plan(changed, device, num_devices, price_per_device_hour=price_per_device_hour)
            )
            for settings, changed in _candidates(config, offload=offload)
        )
        return [candidate for candidate in candidates if candidate.plan.fit.fits]

    found = fitting(offload=False) or ([] if device.is_cpu else fitting(offload=True))
    return min(found, key=_seconds_then_changes, default=None)


def fastest_by_count(
    config: RunConfig, device: Device, *, price_per_device_hour: float | None = None
) -> dict[int, FittingConfig | None]:
    """`fastest_fitting` on 1, 2, 4, ... 1,024 devices, as far as the global batch divides over them."""
    return {
        count: fastest_fitting(config, device, count, price_per_device_hour=price_per_device_hour)
        for count in DEVICE_COUNTS
        if config.train.global_batch % count == 0
    }


def compare_neighbours(config: RunConfig, device: Device, num_devices: int) -> list[str]:
    """The configured settings beside each neighbouring one: a line on its memory and the time of a step.

    The presets' own settings are the fastest that leave a tenth of the paper's GPUs free.
    """
    lines = [_summary("as configured", plan(config, device, num_devices))]
    for settings in _neighbours(config):
        label = ", ".join(f"{key}={value}" for key, value in settings.items())
        lines.append(_summary(f"with {label}", plan(_with(config, settings), device, num_devices)))
    return lines


def _neighbours(config: RunConfig) -> Iterator[dict[str, Any]]:
    """One setting changed at a time, towards more memory and less time, or the reverse."""
    for stage in (1, 3):
        if stage != config.engine.zero_stage:
            yield {"engine.zero_stage": stage}
    for recompute in RECOMPUTES:
        if recompute != config.engine.recompute:
            yield {"engine.recompute": recompute}
    yield {"train.micro_batch": 2 * config.train.micro_batch}


def _summary(label: str, planned: Plan) -> str:
    seconds, fit = planned.predicted_seconds_per_step, planned.fit
    time = "" if seconds is None or not fit.fits else f", {seconds:.3g} s per step"
    verdict = "fits" if fit.fits else "does not fit"
    return f"{label}: {fit.needed / 1e9:,.1f} of {fit.available / 1e9:,.1f} GB, {verdict}{time}"


def _with(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """A copy with dotted keys of `train` and `engine` changed."""
    changed: dict[str, dict[str, Any]] = {"train": {}, "engine": {}}
    for key, value in settings.items():
        table, name = key.split(".")
        changed[table][name] = value
    return config.model_copy(
        update={table: getattr(config, table).model_copy(update=values) for table, values in changed.items()}
    )


def devices_that_fit(config: RunConfig, num_devices: int) -> dict[str, bool]:
    """Whether the run as configured fits on that many of each known device."""
    return {name: plan(config, find_device(name), num_devices).fit.fits for name in device_names()}


def _candidates(config: RunConfig, *, offload: bool) -> Iterator[tuple[dict[str, Any], RunConfig]]:
    """Settings that differ from the configured ones, with the configuration that they give."""
    configured = config.train.micro_batch
    micro_batches = dict.fromkeys((configured, 4 * configured, max(1, configured // 4), 1))
    offloads = ("optimizer", "parameters") if offload else ("none",)
    for stage, recompute, micro_batch, where in product((1, 2, 3), RECOMPUTES, micro_batches, offloads):
        if where == "parameters" and stage != 3:
            continue  # DeepSpeed offloads parameters under ZeRO 3 only
        engine = {"zero_stage": stage, "recompute": recompute, "offload": where}
        settings = {
            f"engine.{key}": value for key, value in engine.items() if getattr(config.engine, key) != value
        }
        if micro_batch != config.train.micro_batch:
            settings["train.micro_batch"] = micro_batch
        yield settings, _with(config, settings)


def _seconds_then_changes(fitting: FittingConfig) -> tuple[float, int]:
    seconds = fitting.plan.predicted_seconds_per_step
    return (0.0 if seconds is None else seconds, len(fitting.settings))
