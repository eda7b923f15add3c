"""The charts of a page as one PNG picture, drawn by matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from fpm_cli.files import atomic_write
from fpm_cli.reports.charts import Chart

COLORS = {1: "#0b61a4", 2: "#a84b00", 3: "#1a7f37", 4: "#7a3fd6"}  # the page's, in its light scheme
COLUMNS, CHART_INCHES, DOTS_PER_INCH = 2, (5.6, 3.4), 150


def write_png(path: Path, title: str, charts: Sequence[Chart]) -> None:
    """Write the charts under a title, in two columns where there are several."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(COLUMNS, len(charts))
    rows = -(-len(charts) // columns)
    size = (CHART_INCHES[0] * columns, CHART_INCHES[1] * rows + 0.5)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    try:
        figure.suptitle(title)
        for axes, chart in zip(grid.flat, charts, strict=False):
            _draw(axes, chart)
        for axes in grid.flat[len(charts) :]:
            axes.set_visible(False)
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    finally:
        plt.close(figure)


def _draw(axes, chart: Chart) -> None:  # type: ignore[no-untyped-def]
    for series in chart.drawn:
        xs, ys = zip(*series.points, strict=True)
        color = COLORS[series.color]
        label = series.label or None
        if series.style == "level":
            axes.axhline(ys[0], color=color, linestyle="--", label=label)
            continue
        axes.plot(
            *(xs, ys),
            color=color,
            linestyle={"dots": "", "circles": "", "dashed": "--"}.get(series.style, "-"),
            linewidth=0.8 if series.style == "thin" else 1.6,
            marker="o" if series.style in ("points", "dots", "circles") else "",
            markersize=4 if series.style == "points" else 6,
            markerfacecolor="white" if series.style == "circles" else color,
            label=label,
        )
    for mark in chart.marks:
        axes.axvline(mark, color="#57606a", linestyle=":", linewidth=0.8)
    if chart.log_y:
        axes.set_yscale("log")
    if chart.log_x:
        axes.set_xscale("log")
    if chart.x_ticks:
        axes.set_xticks(list(chart.x_ticks), [f"{tick:g}" for tick in chart.x_ticks])
        axes.minorticks_off()
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
