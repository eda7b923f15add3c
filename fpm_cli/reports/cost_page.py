"""The cost report as a page: the user's runs first, then the paper's cost table recomputed."""

import math
from collections.abc import Sequence

from fpm_cli.accounting.paper_tables import Finding
from fpm_cli.accounting.run_costs import RunCosts
from fpm_cli.accounting.table4 import PLAIN_SENTENCE, Row
from fpm_cli.reports.cost_rows import run_cost_rows
from fpm_cli.reports.html import render

UTILISATION_RANGE = (0.1, 100.0)  # of the logarithmic bars: 10 % to 10,000 %


def cost_page(rows: Sequence[Row], findings: Sequence[Finding], runs: Sequence[RunCosts]) -> str:
    """The page's HTML.

    Args:
        rows: Table 4, audited.
        findings: Tables 1 to 3 and the text, audited.
        runs: the user's own.
    """
    most = max(row.eflops_recomputed for row in rows)
    return render(
        "cost.html.j2",
        rows=rows,
        findings=findings,
        names=[cost.run for cost in runs],
        costs=run_cost_rows(runs),
        agreeing=sum(row.agrees for row in rows),
        above=sum(row.implied_mfu_at_stated_batch > 1 for row in rows),
        sentence=PLAIN_SENTENCE,
        budgets=[round(100 * row.eflops_recomputed / most, 1) for row in rows],
        utilisations=[
            round(100 * log_share(row.implied_mfu_at_stated_batch, *UTILISATION_RANGE), 1) for row in rows
        ],
        whole=round(100 * log_share(1.0, *UTILISATION_RANGE), 1),
    )


def log_share(value: float, low: float, high: float) -> float:
    """Where `value` lies between `low` and `high` on a logarithmic scale, from 0 to 1."""
    share = math.log(value / low) / math.log(high / low)
    return min(1.0, max(0.0, share))
