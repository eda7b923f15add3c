"""A study's rows and verdicts as plain tables: a header and rows of text, for the terminal and the page."""

import math
from collections.abc import Sequence
from statistics import fmean

from fpm_cli.reports.page import TextTable
from fpm_cli.study.analysis import ScoreAnalysis
from fpm_cli.study.paper_study import PaperVerdict
from fpm_cli.study.results import ResultRow
from fpm_cli.study.study import Study


def score_table(analysis: ScoreAnalysis, horizon_unit: str) -> TextTable | None:
    """Each depth's mean score, its difference from the best, and whether it is a candidate."""
    comparison, verdict = analysis.comparison, analysis.verdict
    if comparison is None or verdict is None:
        return None
    rows = []
    for index, depth in enumerate(comparison.depths):
        mean = analysis.sign * float(comparison.means[index])
        difference = "-"
        if index != comparison.best and comparison.num_seeds > 1:
            found = comparison.difference(index, comparison.best)
            low, high = sorted((analysis.sign * found.low, analysis.sign * found.high))
            difference = f"{analysis.sign * found.value:+.4f} ({low:+.4f} to {high:+.4f})"
        standing = "best mean" if index == comparison.best else "not told from it"
        rows.append(
            (str(depth), f"{mean:.4f}", difference, standing if depth in verdict.candidates else "worse")
        )
    better = "lower" if analysis.lower_is_better else "higher"
    title = f"{analysis.score} ({better} is better) at {analysis.horizon:,g} {horizon_unit.replace('_', ' ')}"
    return TextTable(title, ("layers", "mean", "less that of the best, 95 %", "verdict"), tuple(rows))


def cost_table(study: Study, rows: Sequence[ResultRow]) -> TextTable:
    """What each depth has and took, means over seeds."""
    cells: list[tuple[str, ...]] = []
    for horizon in study.settings.horizons:
        for depth in study.settings.depths:
            here = [row for row in rows if (row.depth, row.horizon) == (depth, horizon) and not row.tuning]
            if not here:
                continue
            first, memory = here[0], [row.peak_memory_bytes for row in here if row.peak_memory_bytes]
            cells.append(
                (
                    str(depth),
                    str(first.hidden_size),
                    f"{first.layer_parameters:,}",
                    f"{first.steps:,}",
                    f"{first.tokens:,}",
                    f"{first.model_flops:.3g}",
                    f"{first.learning_rate:g}",
                    f"{fmean(row.seconds for row in here):.1f}",
                    _mean_text([row.task_seconds for row in here if row.task_seconds is not None]),
                    f"{max(memory) / 2**20:,.0f}" if memory else "-",
                )
            )
    columns: tuple[str, ...] = (
        *("layers", "width", "layer parameters", "steps", "tokens", "model FLOPs", "lr"),
        *("seconds", "fine-tuning", "peak MiB"),
    )
    # A column that no run fills is left out: no task, or runs from before the memory was recorded.
    filled = [place for place in range(len(columns)) if any(cell[place] != "-" for cell in cells)]
    shown = tuple(columns[place] for place in filled)
    return TextTable(
        "What each depth took (means over seeds)",
        shown,
        tuple(tuple(cell[place] for place in filled) for cell in cells),
    )


def _mean_text(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" if values else "-"


def learning_rate_table(study: Study, rows: Sequence[ResultRow]) -> TextTable | None:
    """The loss at each rate tried, and the rate of the lowest point of a parabola through the best three."""
    tried = [row for row in rows if row.tuning]
    if not tried:
        return None
    rates = study.settings.learning_rates
    cells = []
    for depth in study.settings.depths:
        here = {row.learning_rate: row for row in tried if row.depth == depth}
        best = best_rate(rates, [here[rate].loss if rate in here else None for rate in rates])
        texts = [_loss_text(here.get(rate)) for rate in rates]
        width = next((str(row.hidden_size) for row in tried if row.depth == depth), "-")
        cells.append((str(depth), width, *texts, "-" if best is None else f"{best:.3g}"))
    columns = ("layers", "width", *(f"lr {rate:g}" for rate in rates), "best lr")
    return TextTable("Loss at each learning rate tried", columns, tuple(cells))


def _loss_text(row: ResultRow | None) -> str:
    if row is None:
        return "not run"
    return "diverged" if row.loss is None else f"{row.loss:.4f}"


def best_rate(rates: Sequence[float], losses: Sequence[float | None]) -> float | None:
    """The lowest point of the parabola in log rate through the best rate and its neighbours.

    At the edge of the rates tried it is the best rate itself; None where every rate diverged.
    """
    known = [(math.log(rate), loss) for rate, loss in zip(rates, losses, strict=True) if loss is not None]
    if not known:
        return None
    known.sort()
    best = min(range(len(known)), key=lambda index: known[index][1])
    if best in (0, len(known) - 1):
        return math.exp(known[best][0])
    (x0, y0), (x1, y1), (x2, y2) = known[best - 1 : best + 2]
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    return math.exp((x0 + x1) / 2 - left / (2 * curvature)) if curvature > 0 else math.exp(x1)


def paper_table(verdict: PaperVerdict) -> TextTable:
    """Table 3's rows with their binomial errors."""
    rows = tuple(
        (row.model, str(row.depth), f"{row.accuracy:.2f}", f"{row.standard_error:.2f}")
        for row in verdict.rows
    )
    return TextTable(
        "Table 3: QQP dev, 40,430 pairs, one seed per depth",
        ("model", "layers", "accuracy, %", "error"),
        rows,
    )


def paper_seeds_table(verdict: PaperVerdict) -> TextTable:
    """How many seeds per depth would name the paper's best depth alone."""
    rows = tuple(
        (f"{std:.1f}", "more than 10,000" if needed is None else f"{needed:,}")
        for std, needed in verdict.seeds_needed
    )
    title = (
        "Seeds per depth that would single out 70 layers in 9 of 10 studies, if the printed means were true"
    )
    return TextTable(title, ("spread between seeds, points", "seeds"), rows)
