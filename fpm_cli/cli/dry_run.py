"""`fpm pretrain --dry-run`: what a run would cost, whether it fits, and the quickest way to make it fit."""

from dataclasses import replace
from typing import Any

from rich.table import Table

from fpm_cli.accounting.devices import find_device
from fpm_cli.accounting.fitting import Way, devices_that_fit, quickest_way, reasons, ways_by_count
from fpm_cli.accounting.plan import Plan, plan
from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.console import show, show_json
from fpm_cli.config.schema import RunConfig

GIB = 2**30


def show_dry_run(
    config: RunConfig,
    device_name: str,
    num_devices: int,
    *,
    price_per_device_hour: float | None = None,
    command: str | None = None,
    script: str = "",
    as_json: bool = False,
) -> None:
    """Plan by accounting alone, without torch, and print it; or the launch `script`, if there is one.

    Raises:
        UsageError: an unknown device, no devices, a negative price.
    """
    if script and not as_json:
        show(script)
        return
    device = find_device(device_name)
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
    )
    quickest = quickest_way(config, device, num_devices, price_per_device_hour=price_per_device_hour)
    fitting = devices_that_fit(config, num_devices)
    why = reasons(config, device, num_devices)
    by_count = (
        {} if device.is_cpu else ways_by_count(config, device, price_per_device_hour=price_per_device_hour)
    )
    if as_json:
        document: dict[str, Any] = planned.document()
        document["fits_on"] = fitting
        document["why"] = why
        document["launch"] = script or None
        document["quickest_way_to_fit"] = quickest.document() if quickest else None
        document["by_num_devices"] = [
            way.document() if way else {"num_devices": count, "fits": False}
            for count, way in by_count.items()
        ]
        show_json("pretrain-dry-run", document)
        return
    show(_plan_table(planned, fitting, quickest, why))
    if by_count:
        show(_count_table(device.name, by_count))


def _plan_table(planned: Plan, fitting: dict[str, bool], quickest: Way | None, why: list[str]) -> Table:
    table = Table("what", "how much", title=f"{planned.command}, planned")
    rows = {
        "exact parameters": f"{planned.exact_params:,}",
        "devices": f"{planned.num_devices} x {planned.device.name}, {planned.precision}",
        "tokens a step": f"{planned.tokens_per_step:,}",
        "passes a step": f"{planned.passes_per_step} of {planned.micro_batch} sequences a device",
        "model FLOPs a step": f"{planned.model_flops_per_step:.4g}",
        "hardware FLOPs a step": f"{planned.hardware_flops_per_step:.4g}",
        **{f"memory, {name} (GiB)": f"{size / GIB:,.2f}" for name, size in planned.memory.document().items()},
        "available (GiB a device)": f"{planned.fit.available / GIB:,.2f}",
        "fits": "yes" if planned.fit.fits else "no",
        "why these settings": "\n".join(why),
        "as configured it fits on": ", ".join(name for name, fits in fitting.items() if fits) or "none known",
        "quickest way to fit": "none found" if quickest is None else quickest.flags or "as configured",
        "seconds a step": _number(planned.predicted_seconds_per_step),
        "hours in all": _number(planned.hours),
        "model FLOPs utilisation": "unknown"
        if planned.predicted_mfu is None
        else f"{planned.predicted_mfu:.1%}",
        "energy, kWh at most": _number(planned.kilowatt_hours),
        "price": _number(planned.price),
        "assuming": "\n".join(planned.assumptions),
    }
    for what, much in rows.items():
        table.add_row(what, much)
    return table


def _count_table(device: str, ways: dict[int, Way | None]) -> Table:
    table = Table(title=f"The quickest settings that fit, by number of {device}")
    table.add_column("devices", justify="right")
    table.add_column("settings", overflow="fold")
    for name in ("GiB a device", "seconds a step", "hours", "device-hours", "MFU", "kWh", "price"):
        table.add_column(name, justify="right")
    for count, way in ways.items():
        if way is None:
            table.add_row(f"{count:,}", "does not fit")
            continue
        made = way.plan
        table.add_row(
            *(f"{count:,}", way.flags or "as configured", f"{made.memory.total / GIB:,.1f}"),
            *(_number(made.predicted_seconds_per_step), _number(made.hours), _number(made.device_hours)),
            _share(made.predicted_mfu),
            *(_number(made.kilowatt_hours), _number(made.price)),
        )
    return table


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
