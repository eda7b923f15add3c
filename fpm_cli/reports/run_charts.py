"""The curves of a run as charts: loss, learning rate, gradient norm and throughput."""

from collections.abc import Sequence

from fpm_cli.reports.charts import Chart, Point, Series
from fpm_cli.reports.run_facts import RunFacts

STEP = "optimizer step"


def run_charts(run: RunFacts, unigram_entropy: float | None) -> list[Chart]:
    """The charts that the run has values for.

    Args:
        run: from `read_facts`.
        unigram_entropy: nats per token of the validation text; None draws no level.
    """
    marks = restarts_and_skips(run)
    charts = [
        loss_chart(run, unigram_entropy, marks),
        *(_score_charts(run, marks) if run.task else ()),
        Chart(
            "Gradient norm",
            value_range("The global norm before clipping", run.curve("train", "grad_norm")),
            STEP,
            "norm",
            [Series("gradient norm", run.curve("train", "grad_norm"), 3, "thin")],
            marks,
            "restart or skipped step",
            log_y=True,
        ),
        Chart(
            "Throughput (tokens per second)",
            value_range("Tokens per second in each step", run.curve("train", "tokens_per_second")),
            STEP,
            "tokens per second",
            [Series("tokens per second", run.curve("train", "tokens_per_second"), 4, "thin")],
            marks,
            "restart or skipped step",
            from_zero=True,
        ),
        Chart(
            "Learning rate",
            value_range("The learning rate", run.curve("train", "lr")),
            STEP,
            "learning rate",
            [Series("learning rate", run.curve("train", "lr"), 1)],
            from_zero=True,
        ),
    ]
    return [chart for chart in charts if chart.drawn]


def loss_chart(run: RunFacts, unigram_entropy: float | None, marks: list[float]) -> Chart:
    """Training and validation loss, and the unigram entropy as a level."""
    train, validation = run.curve("train", "loss"), run.curve("validation", "loss")
    masked = run.curve("validation", "mlm") if run.token_loss_name == "mlm" else []
    level: list[Point] = [] if unigram_entropy is None or run.task else [(0, unigram_entropy)]
    below = f" The unigram entropy is {unigram_entropy:.3f}." if level else ""
    return Chart(
        "Loss (nats)",
        value_range("Training loss", train) + " " + value_range("Validation loss", validation) + below,
        STEP,
        "nats",
        [
            Series("training loss", train, 1, "thin"),
            Series("validation loss", validation, 2, "points"),
            *([Series("validation, masked tokens", masked, 4, "points")] if masked else ()),
            Series("unigram entropy", level, 3, "level"),
        ],
        marks,
        "restart or skipped step",
    )


def _score_charts(run: RunFacts, marks: list[float]) -> list[Chart]:
    names = ("accuracy", "f1_positive", "f1_macro")
    series = [
        Series(f"{name.replace('_', ' ')}", run.curve("validation", name), color, "points")
        for color, name in enumerate(names, start=1)
    ]
    description = " ".join(value_range(s.label.capitalize(), s.points) for s in series if s.points)
    return [Chart("Scores on the held-back examples", description, STEP, "score", series, marks)]


def restarts_and_skips(run: RunFacts) -> list[float]:
    """The steps at which a launch continued the run, and those that were skipped."""
    restarts = [float(launch.first_step) for launch in run.launches[1:]]
    skips = [float(row["step"]) for row in run.rows if row["kind"] in ("skip", "rewind")]
    return sorted({*restarts, *skips})


def value_range(what: str, points: Sequence[Point]) -> str:
    """One sentence with the first, last, lowest and highest value, for readers who do not see the chart."""
    if not points:
        return f"{what}: no values."
    values = [value for _, value in points]
    first, last = points[0][0], points[-1][0]
    return (
        f"{what}: from {values[0]:.4g} at step {first:,} to {values[-1]:.4g} at step {last:,}, "
        f"lowest {min(values):.4g}, highest {max(values):.4g}."
    )
