"""`fpm pretrain --dry-run`: what a run would cost, whether it fits, and the fastest settings that fit."""

from dataclasses import replace
from typing import Any

from rich.table import Table

from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.fitting import (
    FittingConfig,
    compare_neighbours,
    devices_that_fit,
    fastest_by_count,
    fastest_fitting,
)
from fpm_cli.accounting.plan import Fit, Plan, plan
from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.console import log, show, show_json
from fpm_cli.config.schema import RunConfig
from fpm_cli.config.warnings import find_doubtful_settings
from fpm_cli.ops.build import is_built

GIB = 2**30


def show_dry_run(
    config: RunConfig,
    device_name: str,
    num_devices: int,
    *,
    price_per_device_hour: float | None = None,
    host_bytes: int | None = None,
    command: str | None = None,
    script: str = "",
    as_json: bool = False,
) -> None:
    """Plan by accounting alone, without torch, and print it; or the launch `script`, if there is one.

    `host_bytes` is the memory of each host; by default that of the server that the vendor sells.

    Raises:
        UsageError: an unknown device, no devices, a batch that does not divide over them, a negative price.
    """
    if script and not as_json:
        show(script)
        return
    device = find_device(device_name)
    if host_bytes is not None:
        device = replace(device, host_bytes=host_bytes, host_source="as given")
        if device.is_cpu:
            device = replace(device, memory_bytes=host_bytes)
    calibration = stored_calibration() if device.is_cpu else None
    if calibration:
        device = replace(device, peak_flops={"fp32": calibration.peak_flops / max(1, num_devices)})
    planned = plan(
        config,
        device,
        num_devices,
        price_per_device_hour=price_per_device_hour,
        calibration=calibration,
        command=command,
        compiled=config.engine.kernels == "auto" and is_built(config.engine.kernels_folder),
    )
    fastest = fastest_fitting(config, device, num_devices, price_per_device_hour=price_per_device_hour)
    fits_on = devices_that_fit(config, num_devices)
    neighbours = compare_neighbours(config, device, num_devices)
    by_count = (
        {} if device.is_cpu else fastest_by_count(config, device, price_per_device_hour=price_per_device_hour)
    )
    if as_json:
        document: dict[str, Any] = planned.document()
        document["fits_on"] = fits_on
        document["why"] = neighbours
        document["launch"] = script or None
        document["quickest_way_to_fit"] = fastest.document() if fastest else None
        document["by_num_devices"] = [
            fitting.document() if fitting else {"num_devices": count, "fits": False}
            for count, fitting in by_count.items()
        ]
        document["warnings"] = find_doubtful_settings(config)
        show_json("pretrain-dry-run", document)
        return
    for line in find_doubtful_settings(config):
        log(f"warning: {line}")
    show(_plan_table(planned, fits_on, fastest, neighbours))
    if by_count:
        show(_count_table(device.name, by_count))


def _plan_table(
    planned: Plan, fits_on: dict[str, bool], fastest: FittingConfig | None, neighbours: list[str]
) -> Table:
    table = Table("quantity", "value", title=f"{planned.command}, planned")
    rows = {
        "exact parameters": f"{planned.exact_params:,}",
        "devices": f"{planned.num_devices} x {planned.device.name}, {planned.precision}",
        "tokens per step": f"{planned.tokens_per_step:,}",
        "forward passes per step": f"{planned.passes_per_step} of {planned.micro_batch} sequences per device",
        "model FLOPs per step": f"{planned.model_flops_per_step:.4g}",
        "hardware FLOPs per step": f"{planned.hardware_flops_per_step:.4g}",
        **{f"memory, {name} (GiB)": f"{size / GIB:,.2f}" for name, size in planned.memory.document().items()},
        "available (GiB per device)": f"{planned.fit.available / GIB:,.2f}",
        "memory of a host (GiB)": _host(planned),
        "to use the trained run (GiB)": ", ".join(
            f"{verb.replace('_', ' ')} {size / GIB:,.1f}" for verb, size in planned.inference.items()
        ),
        "fits": _verdict(planned.fit),
        "neighbouring settings": "\n".join(neighbours),
        "as configured it fits on": ", ".join(name for name, fits in fits_on.items() if fits) or "none known",
        "fastest settings that fit": "none found" if fastest is None else fastest.flags or "as configured",
        "seconds per step": _number(planned.predicted_seconds_per_step),
        "total hours": _number(planned.hours),
        "model FLOPs utilisation": "unknown"
        if planned.predicted_mfu is None
        else f"{planned.predicted_mfu:.1%}",
        "energy, kWh at most": _number(planned.kilowatt_hours),
        "price": _number(planned.price),
        "assuming": "\n".join(planned.assumptions),
    }
    for quantity, value in rows.items():
        table.add_row(quantity, value)
    return table


def _host(planned: Plan) -> str:
    parts = {name: size for name, size in planned.host.document().items() if size and name != "local_ranks"}
    listed = ", ".join(f"{name.replace('_', ' ')} {size / GIB:,.1f}" for name, size in parts.items())
    available = planned.fit.host_available
    room = "unknown" if available is None else f"{available / GIB:,.1f}"
    return f"{planned.host.total / GIB:,.1f} ({listed}) of {room}"


def _verdict(fit: Fit) -> str:
    if fit.fits:
        return "yes"
    return "no: the device is too small" if not fit.fits_device else "no: the host's memory is too small"


def _count_table(device: str, fitting_configs: dict[int, FittingConfig | None]) -> Table:
    table = Table(title=f"The fastest settings that fit, by number of {device}")
    table.add_column("devices", justify="right")
    table.add_column("settings", overflow="fold")
    for name in ("GiB per device", "seconds per step", "hours", "device-hours", "MFU", "kWh", "price"):
        table.add_column(name, justify="right")
    for count, fitting in fitting_configs.items():
        if fitting is None:
            table.add_row(f"{count:,}", "does not fit")
            continue
        planned = fitting.plan
        table.add_row(
            *(f"{count:,}", fitting.flags or "as configured", f"{planned.memory.total / GIB:,.1f}"),
            *(
                _number(planned.predicted_seconds_per_step),
                _number(planned.hours),
                _number(planned.device_hours),
            ),
            _share(planned.predicted_mfu),
            *(_number(planned.kilowatt_hours), _number(planned.price)),
        )
    return table


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
