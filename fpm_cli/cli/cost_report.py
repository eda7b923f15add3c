"""`fpm cost-report`: what runs cost, and Table 4 of the paper recomputed and audited."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fpm_cli.accounting.paper_tables import (
    TABLE3,
    Finding,
    audit_statements_on_table4,
    audit_table1,
    audit_table2,
    audit_table3,
)
from fpm_cli.accounting.run_costs import RunCosts, read_run, run_costs
from fpm_cli.accounting.table4 import PLAIN_SENTENCE, Row, audit_row
from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.cli.completion import complete_run
from fpm_cli.cli.console import JsonFlag, log, show, show_json
from fpm_cli.cli.numbers import MAX_PRICE
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve
from fpm_cli.files import replace_text
from fpm_cli.reports.cost_page import cost_page
from fpm_cli.reports.cost_rows import run_cost_rows

EXAMPLES = "Examples:\n\n  fpm cost-report\n\n  fpm cost-report runs/CPM-X-L-proxy --audit --html cost.html"


def cost_report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders; none: Table 4 alone.", autocompletion=complete_run),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option("--run", help="A run folder, as the argument.", autocompletion=complete_run),
    ] = None,
    peak_tflops: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            max=1e9,
            help="Dense peak of a run's device in TFLOP/s, where fpm has none (CPU).",
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MAX_PRICE,
            help="Per device-hour, in any currency; by default each run's own.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page, with plots.")] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="With runs: add the paper's tables, row by row.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Account for runs. Without runs, or with --audit, recompute and audit the paper's tables."""
    from fpm_cli.study.paper_study import audit_best_depth  # needs scipy, which --help does not

    configs = {name: resolve(name, environment={}).config for name in preset_names()}
    rows = [audit_row(config) for config in configs.values()]
    findings = [
        *audit_table1(),
        *map(audit_table2, configs.values()),
        *map(audit_table3, TABLE3),
        audit_best_depth(),
        *audit_statements_on_table4(configs),
    ]
    folders = (runs or []) + (run or [])
    costs = [
        run_costs(
            read_run(folder),
            peak_flops=peak_tflops * 1e12 if peak_tflops else None,
            calibration=stored_calibration(),
            price_per_device_hour=price,
        )
        for folder in folders
    ]
    if html:
        replace_text(html, cost_page(rows, findings, costs))
        log(f"written to {html}")
    if as_json:
        show_json(
            "cost-report",
            {
                "rows": [row.document() for row in rows],
                "agreeing": sum(row.agrees for row in rows),
                "findings": [finding.document() for finding in findings],
                "runs": [cost.document() for cost in costs],
            },
        )
        return
    if costs:
        show(_run_table(costs))
    if audit or not costs:
        show(_audit_table(rows))
        _explain(rows)
        show(_findings_table(findings))
    else:
        agreeing = sum(row.agrees for row in rows)
        show(f"Table 4 of the paper: {agreeing} of {len(rows)} rows agree; --audit shows each row.")


def _audit_table(rows: list[Row]) -> Table:
    table = Table(
        title="Table 4: printed EFLOP, recomputed as hours x 3600 x GPUs x 312 TFLOP/s, and what it buys"
    )
    table.add_column("model", no_wrap=True)
    for name in ("hours", "steps", "GPUs", "EFLOP\nprinted", "EFLOP\nrecomputed", "differ-\nence"):
        table.add_column(name, justify="right")
    table.add_column("agrees")
    for name in (
        "GFLOP per\ntoken",
        "PFLOP per\nstep",
        "tokens per step\nstated",
        "affordable\nat 100 %",
        "affordable\nat 40 %",
        "implied\nMFU",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            *(row.model, f"{row.hours:.4g}", f"{row.steps:,}", str(row.gpus)),
            *(f"{row.eflops_printed:,}", f"{row.eflops_recomputed:,.2f}", f"{row.difference:+.2f}"),
            row.agreement if row.agrees else "NO",
            *(f"{row.model_flops_per_token / 1e9:.3f}", f"{row.model_flops_per_step / 1e15:.3f}"),
            f"{row.tokens_per_step_stated:,}",
            f"{row.tokens_per_step_affordable:,}",
            f"{row.tokens_per_step_affordable_realistic:,}",
            f"{row.implied_mfu_at_stated_batch:.0%}",
            style=None if row.agrees else "yellow",
        )
    return table


def _explain(rows: list[Row]) -> None:
    agreeing = sum(row.agrees for row in rows)
    show(f"{agreeing} of {len(rows)} rows agree, truncated or rounded to a whole EFLOP. The others:")
    for row in rows:
        if row.explanation:
            show(f"  {row.model}: {row.explanation}")
    above = [row for row in rows if row.implied_mfu_at_stated_batch > 1]
    show(f"{len(above)} rows imply a utilisation above 100 %. {PLAIN_SENTENCE}")


def _findings_table(findings: list[Finding]) -> Table:
    table = Table(
        "table", "row", "printed", "recomputed", title="Tables 1 to 3, and what the text says about Table 4"
    )
    table.add_column("why", overflow="fold")
    for finding in findings:
        table.add_row(finding.table, finding.row, finding.printed, finding.recomputed, finding.explanation)
    return table


def _run_table(costs: list[RunCosts]) -> Table:
    table = Table("measure", title="Runs: time and work as measured, restarts charged")
    for cost in costs:
        table.add_column(cost.run, justify="right", overflow="fold")
    for name, cells in run_cost_rows(costs):
        table.add_row(name, *cells)
    return table
