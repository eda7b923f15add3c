"""What runs cost as rows of text, for the terminal and for pages."""

from collections.abc import Callable, Sequence

from fpm_cli.accounting.run_costs import RunCosts
from fpm_cli.reports.words import duration, price, quantity

Measure = Callable[[RunCosts], str | None]  # None: this run has no such value

MEASURES: dict[str, Measure] = {
    "model": lambda cost: cost.model,
    "time, all launches": lambda cost: f"{duration(cost.hours * 3600)} ({cost.launches})",
    "steps, with repeated ones": lambda cost: f"{cost.steps:,} ({cost.steps_run:,})",
    "devices": lambda cost: f"{cost.devices} x {cost.device_name}",
    "device-hours": lambda cost: f"{cost.device_hours:.4f}",
    "tokens": lambda cost: f"{cost.tokens:,}",
    "peak budget": lambda cost: _flops(cost.peak_budget_flops),
    "model FLOPs": lambda cost: _flops(cost.model_flops),
    "hardware FLOPs": lambda cost: _flops(cost.hardware_flops),
    "achieved per device": lambda cost: quantity(cost.achieved_flops_per_second, "FLOP/s"),
    "MFU": lambda cost: _share(cost.mfu),
    "HFU": lambda cost: _share(cost.hfu),
    "seconds per step, measured": lambda cost: _number(cost.measured_seconds_per_step),
    "seconds per step, predicted": lambda cost: _number(cost.predicted_seconds_per_step),
    "price": lambda cost: None if cost.price is None else price(cost.price),
    "last training loss": lambda cost: _number(cost.final_loss),
}


def run_cost_rows(costs: Sequence[RunCosts]) -> list[tuple[str, list[str]]]:
    """A name and a cell for each run; a measure that no run has is left out."""
    rows = [(name, [measure(cost) for cost in costs]) for name, measure in MEASURES.items()]
    return [
        (name, ["-" if cell is None else cell for cell in cells])
        for name, cells in rows
        if any(cell is not None for cell in cells)
    ]


def _flops(value: float | None) -> str | None:
    return None if value is None else quantity(value, "FLOP")


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
