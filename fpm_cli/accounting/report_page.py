"""The cost report as one self-contained HTML page: tables, explanations and bars, no scripts, no network."""

import math
from collections.abc import Sequence
from pathlib import Path

from fpm_cli.accounting.paper_tables import Finding
from fpm_cli.accounting.run_costs import RunCosts
from fpm_cli.accounting.table4 import PLAIN_SENTENCE, Row


def report_page(rows: Sequence[Row], findings: Sequence[Finding], runs: Sequence[RunCosts]) -> str:
    """The page's text.

    Args:
        rows: Table 4, audited.
        findings: Tables 1 to 3 and the text, audited.
        runs: the user's own.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["log_share"] = log_share
    return environment.get_template("report_page.html.j2").render(
        rows=rows,
        findings=findings,
        runs=runs,
        agreeing=sum(row.agrees for row in rows),
        above=sum(row.implied_mfu_at_stated_batch > 1 for row in rows),
        sentence=PLAIN_SENTENCE,
        most_eflops=max(row.eflops_recomputed for row in rows),
    )


def log_share(value: float, low: float, high: float) -> float:
    """Where `value` lies between `low` and `high` on a logarithmic scale, from 0 to 1."""
    share = math.log(value / low) / math.log(high / low)
    return min(1.0, max(0.0, share))
