"""Tables of classification scores: a run and the systems compared with it, and its confusion matrix."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from fpm_cli.tasks.report import TaskReport
    from fpm_cli.tasks.scores import Scores

HEADINGS = {
    "accuracy": "accuracy",
    "f1_positive": "F1 of {positive}\n(GLUE's)",
    "precision_macro": "macro\nprecision",
    "recall_macro": "macro\nrecall",
    "f1_macro": "macro F1\n(Table 3's)",
    "matthews": "Matthews'\ncorrelation",
    "pearson": "Pearson's\ncorrelation",
    "spearman": "Spearman's\ncorrelation",
}


def scores_table(report: "TaskReport") -> Table:
    """Rows: the run, also on examples it has not seen; other systems on the same examples; the paper."""
    task, scores = report.task, report.scores
    assert scores is not None
    title = f"{task.name}: per cent, with 95 % bootstrap intervals; macro: mean over classes"
    table = Table("system", "split", title=title, show_lines=True)
    table.add_column("examples", justify="right")
    columns = [
        name for name in HEADINGS if name in scores.ci95 and (name != "matthews" or name in task.metrics)
    ]
    positive = "" if task.positive_class is None else task.labels[task.positive_class]
    for name in columns:
        heading = HEADINGS[name].format(positive=positive)
        table.add_column(heading if task.name == "qqp" else heading.partition("\n(")[0], justify="right")

    def add(system: str, its: "Scores") -> None:
        cells = (_cell(its.metrics[name], its.ci95[name]) for name in columns)
        table.add_row(system, report.split, f"{its.num_examples:,}", *cells)

    add(str(report.run.path), scores)
    if report.unseen and report.unseen.scores and report.unseen.num_seen:
        add("  on texts that are not in its training files", report.unseen.scores)
    if report.outside_corpus and report.overlap and report.overlap.some.any():
        add("  on texts that are not in its pretraining corpus", report.outside_corpus)
    for other in report.compared:
        add(other.system, other.scores)
    for row in report.paper:
        cells = [_cell(getattr(row, name, None)) for name in columns]
        table.add_row(f"{row.system} ({row.source})", row.split, f"{row.num_examples:,}", *cells, style="dim")
    return table


def _cell(value: float | None, interval: tuple[float, float] | None = None) -> str:
    if value is None:
        return "-"
    bounds = f"\n{100 * interval[0]:.2f} to {100 * interval[1]:.2f}" if interval else ""
    return f"{100 * value:.2f}{bounds}"


def differences_table(report: "TaskReport") -> Table:
    """The run's scores minus those of each other system on the same examples, with a paired bootstrap."""
    table = Table(
        "compared with",
        "score",
        title=f"{report.run.path}, minus other systems on the same examples: percentage points",
    )
    for name in ("difference", "95 % interval", "p"):
        table.add_column(name, justify="right")
    for other in report.compared:
        for name, each in other.differences.items():
            low, high = (f"{100 * bound:+.2f}" for bound in each.ci95)
            table.add_row(
                *(other.system, name.replace("_", " ")),
                *(f"{100 * each.difference:+.2f}", f"{low} to {high}", f"{each.p_value:.4f}"),
            )
    return table


def confusion_table(scores: "Scores", labels: tuple[str, ...], names: Mapping[str, str]) -> Table:
    """True labels are rows, predicted labels are columns; `names` maps descriptions to labels."""
    meaning = {label: name for name, label in reversed(list(names.items())) if not name[0].isdigit()}
    table = Table("true \\ predicted", title="confusion matrix", padding=(0, 0))
    for label in labels:
        table.add_column(label, justify="right")
    for label, counts in zip(labels, scores.confusion or (), strict=True):
        table.add_row(f"{label} {meaning.get(label, '')}".strip(), *map(str, counts))
    return table
