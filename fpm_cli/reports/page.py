"""A self-contained HTML page of paragraphs, tables and SVG figures: no script, no network, light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass

from fpm_cli.reports.html import render


@dataclass(frozen=True)
class TextTable:
    """A title, column heads and rows of cells, for the terminal and for a page."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """An SVG picture, in light and in dark colours, and what it shows in words."""

    light_svg: str
    dark_svg: str
    description: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order: paragraphs, figures, tables."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[TextTable, ...] = ()


def render_page(title: str, summary: str, sections: Sequence[Section], footer: str = "") -> str:
    """The page's HTML; every text is escaped, the figures' SVG is taken as it is."""
    return render("page.html.j2", title=title, summary=summary, sections=sections, footer=footer.rstrip("."))
