"""A self-contained HTML page of paragraphs, charts and tables: no script, no network, light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from fpm_cli.reports.charts import Chart
from fpm_cli.reports.html import chart_entry, render


@dataclass(frozen=True)
class TextTable:
    """A title, column heads and rows of cells, for the terminal and for a page.

    Without column heads it is a list of names and values.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order: paragraphs, charts, tables."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[TextTable, ...] = ()


def render_page(
    title: str,
    subtitle: str,
    lead: str,
    figures: Sequence[tuple[str, str, str]],
    sections: Sequence[Section],
) -> str:
    """The page's HTML; every text is escaped.

    Args:
        title, subtitle: the head.
        lead: what the page says, in a sentence or two.
        figures: name, value and note of the numbers that stand out.
        sections: the rest.
    """
    numbers = count()
    drawn = [
        (section, [chart_entry(chart, f"chart-{next(numbers)}") for chart in section.charts])
        for section in sections
    ]
    return render("page.html.j2", title=title, subtitle=subtitle, lead=lead, figures=figures, sections=drawn)
