"""The templates of the report pages, and charts as they use them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpm_cli import __version__
from fpm_cli.reports.charts import Chart, svg, values_table

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class ChartEntry:
    """A chart in a page: the drawing, and some of its values as a table."""

    chart: Chart
    svg: "Markup"
    heads: list[str]
    rows: list[list[str]]


def chart_entry(chart: Chart, name: str) -> ChartEntry:
    """Draw a chart; `name` is unique within the page."""
    from markupsafe import Markup

    heads, rows = values_table(chart)
    return ChartEntry(chart, Markup(svg(chart, name)), heads, rows)  # escaped by `svg`


def render(template: str, **context: Any) -> str:
    """A page from a template in `templates/`; a name that the context lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **context)
