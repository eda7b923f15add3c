"""Figures for pages and files, drawn by matplotlib in light and dark colours."""

import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fpm_cli.reports.page import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES = (7.2, 3.8)
COLOURS = ("#1f5fae", "#b3541e", "#2f7d4f", "#7b4ea3", "#8a6d00", "#b0305c")
DARK_COLOURS = ("#8ab8f2", "#f0a878", "#7fcf9f", "#c8a6ec", "#e0c45c", "#f08cb0")


@dataclass(frozen=True)
class Palette:
    """The colours of one drawing."""

    text: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Palette("#1d2430", "#d4d9e0", COLOURS)
DARK = Palette("#e7eaf0", "#384150", DARK_COLOURS)


def draw(plot: Callable[["Axes", Palette], None], description: str, caption: str) -> Figure:
    """Draw the same plot in both palettes.

    Args:
        plot: draws onto the axes that it is given.
        description: what a reader who does not see it should know.
        caption: stands under it.
    """
    return Figure(_svg(plot, LIGHT), _svg(plot, DARK), description, caption)


def _svg(plot: Callable[["Axes", Palette], None], palette: Palette) -> str:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fpm", "font.family": "sans-serif"}):
        canvas = Canvas(figsize=INCHES, layout="constrained")
        axes = canvas.add_subplot()
        axes.set_facecolor("none")
        axes.grid(color=palette.grid, linewidth=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_color(palette.grid)
        plot(axes, palette)
        axes.tick_params(colors=palette.text, labelsize=10)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(palette.text)
        if legend := axes.get_legend():
            legend.get_frame().set_alpha(0.0)
            for label in legend.get_texts():
                label.set_color(palette.text)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), "d" if palette is DARK else "l")


def _inline(svg: str, prefix: str) -> str:
    """The <svg> element alone, without metadata, with identifiers of its own on a page of several."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    unique = f"{prefix}{zlib.crc32(svg.encode()):08x}-"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{unique}\1"', svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', rf"\g<1>{unique}\2", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
