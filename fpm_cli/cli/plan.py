"""`fpm plan`: what given devices train in given hours; `--calibrate` measures this machine's speed."""

from typing import Annotated

import typer
from rich.table import Table

from fpm_cli.accounting.affordable import TOKENS_PER_PARAMETER, Affordable, affordable, best_depth
from fpm_cli.accounting.devices import Device, find_device
from fpm_cli.cli.calibrated import calibration_path
from fpm_cli.cli.completion import complete_device
from fpm_cli.cli.console import JsonFlag, log, show, show_json
from fpm_cli.cli.durations import seconds_of
from fpm_cli.cli.numbers import MAX_DEVICES
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError

EXAMPLES = (
    "Examples:\n\n  fpm plan --budget 24 --device A100-40 --devices 8\n\n"
    "  fpm plan --budget 100 --device H100 --devices 64 --json"
)
FAMILY_PRESETS = ("CPM-X-L", "EPM-X-X", "BERT-E-E", "CPM-2-X-M")  # one per family and language
GIB = 2**30
SECONDS_PER_SHAPE, CALIBRATION_SECONDS = 1.0, 20.0  # of repeated steps; loading and first steps are extra


def plan_budget(
    budget: Annotated[
        str | None, typer.Option(help="Wall-clock time in hours, or such as 90m, 36h or 2d.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="A device, for example A100-40.", autocompletion=complete_device)
    ] = "A100-40",
    devices: Annotated[int, typer.Option(min=1, max=MAX_DEVICES, help="How many of them.")] = 8,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine's speed, in at most half a minute.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say how far given devices train each of the twenty presets in given hours, and the best depth."""
    if calibrate:
        _calibrate(as_json)
        return
    if budget is None:
        raise UsageError("--budget HOURS is missing, for example --budget 24; or --calibrate")
    hours = seconds_of(budget, bare_unit="h") / 3600
    planned_device = find_device(device)
    presets = [
        affordable(resolve(name, environment={}).config, planned_device, devices, hours)
        for name in preset_names()
    ]
    depths = {
        name: best_depth(resolve(name, environment={}).config, planned_device, devices, hours)
        for name in FAMILY_PRESETS
    }
    if as_json:
        show_json(
            "plan",
            {
                "hours": hours,
                "device": planned_device.name,
                "num_devices": devices,
                "presets": [affordable_run.document() for affordable_run in presets],
                "best_depths": {
                    name: affordable_run.document() if affordable_run else None
                    for name, affordable_run in depths.items()
                },
                "assumption": _assumption(planned_device),
            },
        )
        return
    show(_preset_table(presets, f"{hours:g} h on {devices} x {planned_device.name}"))
    for name, affordable_run in depths.items():
        show(_depth_line(name, affordable_run))
    show(_assumption(planned_device))


def _preset_table(presets: list[Affordable], title: str) -> Table:
    table = Table("preset", title=title)
    for name in (
        "layers",
        "devices",
        "seconds per step",
        "steps",
        "tokens",
        "of its schedule",
        "tokens per parameter",
        "GiB per device",
        "GiB at its start",
        "GiB per host",
    ):
        table.add_column(name, justify="right")
    table.add_column("settings", overflow="fold")
    for affordable_run in presets:
        layers = str(affordable_run.config.model.num_layers)
        if affordable_run.fitting is None:
            table.add_row(affordable_run.config.name, layers, *[""] * 9, "does not fit")
            continue
        planned = affordable_run.fitting.plan
        seconds, memory = planned.predicted_seconds_per_step or 0.0, planned.memory
        table.add_row(
            *(
                affordable_run.config.name,
                layers,
                str(affordable_run.num_devices),
                f"{seconds:.3g}",
                f"{affordable_run.steps:,}",
                f"{affordable_run.tokens:,}",
            ),
            *(f"{affordable_run.share_of_schedule:.1%}", f"{affordable_run.tokens_per_parameter:.2f}"),
            *(f"{memory.total / GIB:,.1f}", f"{memory.start_peak / GIB:,.1f}"),
            f"{planned.host.total / GIB:,.1f}",
            affordable_run.fitting.flags or "as configured",
        )
    return table


def _depth_line(name: str, affordable_run: Affordable | None) -> str:
    if affordable_run is None:
        return f"{name}'s width: no depth reaches {TOKENS_PER_PARAMETER} tokens per parameter in that time"
    return (
        f"{name}'s width: {affordable_run.config.model.num_layers} layers is the deepest that reaches "
        f"{TOKENS_PER_PARAMETER} tokens per parameter ({affordable_run.tokens:,} tokens)"
    )


def _assumption(device: Device) -> str:
    return (
        f"Assuming the fastest settings that fit on {device.name}, losses as in 174 published GPT runs "
        f"(those of {device.speed_of}), the presets' own batches on as many of the devices as they divide "
        f"over, and {TOKENS_PER_PARAMETER} tokens per parameter as the best use of compute (Hoffmann et al. "
        "2022)."
    )


def _calibrate(as_json: bool) -> None:
    """Measure real steps of small shapes on this machine's processor and keep the fit."""
    import time
    from datetime import UTC, datetime

    import torch

    from fpm_cli.accounting.calibration import calibrate
    from fpm_cli.engine.measure import measure_matmul_flops, measure_step_seconds
    from fpm_cli.engine.world import distributed_world

    with distributed_world(timeout_seconds=60.0) as world:
        if world.device.type != "cpu":
            raise UsageError("--calibrate measures the processor; GPUs are planned from published runs")
        deadline = time.monotonic() + CALIBRATION_SECONDS

        def measure(config: RunConfig) -> float:
            left = max(0.0, deadline - time.monotonic())
            return measure_step_seconds(config, world, budget_seconds=min(SECONDS_PER_SHAPE, left))

        fitted = calibrate(
            measure,
            peak_flops=measure_matmul_flops(budget_seconds=SECONDS_PER_SHAPE),
            threads=torch.get_num_threads(),
            measured_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
    fitted.save(calibration_path())
    log(f"saved in {calibration_path()}")
    if as_json:
        show_json(
            "plan-calibrate",
            {
                "threads": fitted.threads,
                "peak_flops": fitted.peak_flops,
                "fit_error": fitted.fit_error,
            },
        )
    else:
        show(
            f"calibrated with {fitted.threads} threads: matrix products reach {fitted.peak_flops / 1e9:.0f} "
            f"GFLOP/s, median error of the step time over its own shapes {fitted.fit_error:.1%}"
        )
