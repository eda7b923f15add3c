"""Write the table of docs/true_size.md from the presets: `python docs/true_size.py`."""

from pathlib import Path

from fpm_cli.accounting.devices import PAPER_DEVICE, find_device
from fpm_cli.accounting.plan import plan
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve

PAGE = Path(__file__).with_name("true_size.md")
BEGIN, END = "<!-- table: docs/true_size.py -->\n", "<!-- end of the table -->\n"
GB = 1e9
HEAD = (
    "| preset | GPUs | ZeRO, recompute, micro-batch | step | start | load | host | of | fits |\n"
    "|---|--:|---|--:|--:|--:|--:|--:|---|\n"
)


def row(name: str) -> str:
    """The plan of one preset on the paper's GPUs."""
    config = resolve(name, environment={}).config
    assert config.paper
    planned = plan(config, find_device(PAPER_DEVICE), config.paper.gpus)
    memory, fit = planned.memory, planned.fit
    engine = f"{config.engine.zero_stage}, {config.engine.recompute}, {config.train.micro_batch}"
    sizes = " | ".join(
        f"{size / GB:.1f}" for size in (memory.total, memory.start_peak, memory.load_peak, planned.host.total)
    )
    available = f"{(fit.host_available or 0) / GB:,.0f}"
    fits = "yes" if fit.fits else "no"
    return f"| {name} | {config.paper.gpus} | {engine} | {sizes} | {available} | {fits} |\n"


def table() -> str:
    """All twenty, in gigabytes (10^9 bytes)."""
    return HEAD + "".join(row(name) for name in preset_names())


def reference() -> str:
    """The page with the table that the presets give now."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
