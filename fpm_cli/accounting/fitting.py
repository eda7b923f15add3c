"""Ways to make a run fit: sharding, recomputation, smaller passes, offload; the quickest that does."""

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
class Way:
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
            "predicted_seconds_per_step": self.plan.predicted_seconds_per_step,
            "predicted_hours": self.plan.hours,
            "predicted_device_hours": self.plan.device_hours,
            "predicted_kilowatt_hours": self.plan.kilowatt_hours,
            "predicted_price": self.plan.price,
        }


def quickest_way(
    config: RunConfig, device: Device, num_devices: int, *, price_per_device_hour: float | None = None
) -> Way | None:
    """The quickest settings with which the run fits, or None. Offload is tried only where nothing else fits.

    The same devices for less time are also the same devices for less money and energy.
    """

    def tried(offload: bool) -> list[Way]:
        made = (
            Way(settings, plan(changed, device, num_devices, price_per_device_hour=price_per_device_hour))
            for settings, changed in _settings(config, offload=offload)
        )
        return [way for way in made if way.plan.fit.fits]

    fitting = tried(offload=False) or ([] if device.is_cpu else tried(offload=True))
    return min(fitting, key=_seconds_then_changes, default=None)


def ways_by_count(
    config: RunConfig, device: Device, *, price_per_device_hour: float | None = None
) -> dict[int, Way | None]:
    """The quickest way to fit on 1, 2, 4, ... 1,024 devices."""
    return {
        count: quickest_way(config, device, count, price_per_device_hour=price_per_device_hour)
        for count in DEVICE_COUNTS
    }


def reasons(config: RunConfig, device: Device, num_devices: int) -> list[str]:
    """Why these settings: a line on each neighbouring one, how much memory it takes and how long a step.

    The presets' own settings are the quickest that leave a tenth of the paper's GPUs free.
    """
    chosen = plan(config, device, num_devices)
    lines = [_said("as configured", chosen)]
    for settings in _neighbours(config):
        tried = plan(_with(config, settings), device, num_devices)
        label = ", ".join(f"{key}={value}" for key, value in settings.items())
        lines.append(_said(f"with {label}", tried))
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


def _said(label: str, made: Plan) -> str:
    seconds = made.predicted_seconds_per_step
    time = "" if seconds is None or not made.fit.fits else f", {seconds:.3g} s a step"
    verdict = "fits" if made.fit.fits else "does not fit"
    return f"{label}: {made.fit.needed / 1e9:,.1f} of {made.fit.available / 1e9:,.1f} GB, {verdict}{time}"


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


def _settings(config: RunConfig, *, offload: bool) -> Iterator[tuple[dict[str, Any], RunConfig]]:
    """Settings that differ from the configuration's own, with the configuration they make."""
    own = config.train.micro_batch
    micro_batches = dict.fromkeys((own, 4 * own, max(1, own // 4), 1))
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


def _seconds_then_changes(way: Way) -> tuple[float, int]:
    seconds = way.plan.predicted_seconds_per_step
    return (0.0 if seconds is None else seconds, len(way.settings))
