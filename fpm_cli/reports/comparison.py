"""Two or more runs side by side: settings that differ, losses at common steps, scores, cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fpm_cli.config.resolve import flatten
from fpm_cli.reports.charts import Chart, Series
from fpm_cli.reports.html import chart_entry, render
from fpm_cli.reports.run_charts import STEP, value_range
from fpm_cli.reports.run_facts import RunFacts
from fpm_cli.reports.task_scores import paired_differences, task_scores
from fpm_cli.reports.words import duration, price, quantity, setting
from fpm_cli.tasks.scores import Difference, Scores

MOST_COMMON_STEPS = 8
MOST_CURVES = 4  # as many colours as a chart has
LOSS_CURVES = (
    ("Validation loss (nats)", "validation", "loss", "points"),
    ("Training loss (nats)", "train", "loss", "thin"),
)


@dataclass(frozen=True)
class RunComparison:
    """Runs in the order given; differences are those of each run from the first.

    `losses` holds the validation loss of each run at steps at which all of them were validated, in nats;
    it is empty where the losses are of different things, which `incomparable` says.
    """

    runs: tuple[RunFacts, ...]
    settings: Mapping[str, tuple[Any, ...]]
    losses: Mapping[int, tuple[float, ...]]
    incomparable: str
    scores: tuple[Mapping[str, Scores], ...]  # of each run, by split
    differences: tuple[Mapping[str, Mapping[str, Difference]], ...]  # of each run after the first

    @property
    def names(self) -> tuple[str, ...]:
        """The run folders."""
        return tuple(str(run.path) for run in self.runs)

    def document(self) -> dict[str, Any]:
        """The document for `--json`."""
        runs = []
        for place, run in enumerate(self.runs):
            entry: dict[str, Any] = {
                "run": str(run.path),
                "preset": run.preset,
                "proxy": run.config.proxy,
                "task": run.task,
                "state": run.state,
                "step": run.step,
                "train_loss": run.last("train", "loss"),
                "validation_loss": run.last("validation", "loss"),
                "loss_unit": run.loss_unit,
                "scores": {split: dict(scores.metrics) for split, scores in self.scores[place].items()},
                "costs": run.costs.document() if run.costs else None,
            }
            if place:
                entry["minus_first"] = {
                    split: {name: asdict(each) for name, each in by_name.items()}
                    for split, by_name in self.differences[place - 1].items()
                }
            runs.append(entry)
        return {
            "runs": runs,
            "settings": {key: list(values) for key, values in self.settings.items()},
            "validation_losses": {str(step): list(values) for step, values in self.losses.items()},
        }


def compare_runs(runs: Sequence[RunFacts]) -> RunComparison:
    """Compare two or more runs; scores are compared in pairs on the examples that both predicted."""
    first, *others = runs
    incomparable = _why_incomparable(runs)
    return RunComparison(
        runs=tuple(runs),
        settings=_differing_settings(runs),
        losses={} if incomparable else _common_losses(runs),
        incomparable=incomparable,
        scores=tuple(task_scores(run) for run in runs),
        differences=tuple(paired_differences(other, first) for other in others),
    )


def _differing_settings(runs: Sequence[RunFacts]) -> dict[str, tuple[Any, ...]]:
    tables = [dict(flatten(run.config)) for run in runs]
    for table, run in zip(tables, runs, strict=True):
        table["data"] = run.train_names if run.task else run.manifest.corpus_fingerprint or ""
        table["initial weights"] = run.initial_weights
    keys = {key: None for table in tables for key in table}
    values = {key: tuple(table.get(key) for table in tables) for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def _why_incomparable(runs: Sequence[RunFacts]) -> str:
    """Why the losses of the runs are not put beside each other; empty where they can be."""
    units = list(dict.fromkeys(run.loss_unit for run in runs))
    if len(units) > 1:
        return f"Validation losses are not compared: they are nats per {' and per '.join(units)}."
    if units != ["example"] and len({run.manifest.tokenizer_fingerprint for run in runs}) > 1:
        return (
            "Validation losses are not compared: the tokenizers differ, and so do their tokens; "
            "`fpm evaluate lm` gives bits per byte."
        )
    return ""


def _common_losses(runs: Sequence[RunFacts]) -> dict[int, tuple[float, ...]]:
    curves = [dict(run.curve("validation", "loss")) for run in runs]
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    if len(common) > MOST_COMMON_STEPS:
        last = len(common) - 1
        common = [common[round(n * last / (MOST_COMMON_STEPS - 1))] for n in range(MOST_COMMON_STEPS)]
    return {step: tuple(curve[step] for curve in curves) for step in common}


def cost_rows(comparison: RunComparison) -> list[tuple[str, list[str]]]:
    """Cost measures as text: a name, and a cell for each run."""
    costs = [run.costs for run in comparison.runs]
    rows: list[tuple[str, list[str]]] = [
        ("steps", [f"{run.step:,}" for run in comparison.runs]),
        ("tokens", [f"{c.tokens:,}" if c else "-" for c in costs]),
        ("time", [duration(c.hours * 3600) if c else "-" for c in costs]),
        ("device-hours", [f"{c.device_hours:.4g}" if c else "-" for c in costs]),
        ("model FLOPs", [quantity(c.model_flops, "FLOP") if c else "-" for c in costs]),
        (
            "seconds per step",
            [
                f"{c.measured_seconds_per_step:.4g}" if c and c.measured_seconds_per_step else "-"
                for c in costs
            ],
        ),
    ]
    if any(c and c.mfu is not None for c in costs):
        rows.append(("MFU", [f"{c.mfu:.1%}" if c and c.mfu is not None else "-" for c in costs]))
    if any(c and c.price is not None for c in costs):
        rows.append(("price", [price(c.price) if c and c.price is not None else "-" for c in costs]))
    return rows


def comparison_page(comparison: RunComparison) -> str:
    """The comparison as a self-contained HTML page."""
    charts = []
    curves = () if comparison.incomparable else LOSS_CURVES
    for title, kind, name, style in curves:
        series = [
            Series(str(run.path), run.curve(kind, name), color, style)  # type: ignore[arg-type]
            for color, run in enumerate(comparison.runs[:MOST_CURVES], start=1)
        ]
        description = " ".join(value_range(s.label, s.points) for s in series)
        chart = Chart(title, description, STEP, "nats", series)
        if chart.drawn:
            charts.append(chart_entry(chart, f"chart-{kind}"))
    return render(
        "comparison.html.j2",
        names=comparison.names,
        charts=charts,
        not_drawn=max(0, len(comparison.runs) - MOST_CURVES),
        settings=[(key, [setting(v) for v in values]) for key, values in comparison.settings.items()],
        incomparable=comparison.incomparable,
        losses=[(f"{step:,}", [f"{v:.4f}" for v in values]) for step, values in comparison.losses.items()],
        scores=score_rows(comparison),
        differences=difference_rows(comparison),
        costs=cost_rows(comparison),
    )


def score_rows(comparison: RunComparison) -> list[tuple[str, list[str]]]:
    """Scores as text: split and name, and a cell with the 95 % interval for each run."""
    splits = sorted({split for scores in comparison.scores for split in scores})
    rows = []
    for split in splits:
        on_split = [scores.get(split) for scores in comparison.scores]
        for name in next(scores for scores in on_split if scores).ci95:
            rows.append((f"{name.replace('_', ' ')}, {split}", [_cell(scores, name) for scores in on_split]))
    return rows


def _cell(scores: Scores | None, name: str) -> str:
    value = scores.metrics.get(name) if scores else None
    if scores is None or value is None:
        return "-"
    low, high = scores.ci95[name]
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def difference_rows(comparison: RunComparison) -> list[tuple[str, str, str, str, str]]:
    """Paired differences from the first run as text: run, score, difference, 95 % interval, p."""
    return [
        (
            str(run.path),
            f"{name.replace('_', ' ')}, {split}",
            f"{each.difference:+.4f}",
            f"{each.ci95[0]:+.4f} to {each.ci95[1]:+.4f}",
            f"{each.p_value:.4f}",
        )
        for run, by_split in zip(comparison.runs[1:], comparison.differences, strict=True)
        for split, by_name in by_split.items()
        for name, each in by_name.items()
    ]
