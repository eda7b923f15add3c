"""The chart of a study: the score of every run over depth, the means, and the fitted curve."""

import numpy as np

from fpm_cli.reports.charts import Chart, Series
from fpm_cli.study.analysis import ScoreAnalysis

CURVE_POINTS = 60


def depth_chart(analysis: ScoreAnalysis, title: str) -> Chart:
    """Scores over depth on a logarithmic axis; candidates for the best depth are filled."""
    comparison, verdict = analysis.comparison, analysis.verdict
    assert comparison is not None and verdict is not None
    depths, sign = comparison.depths, analysis.sign
    means = dict(zip(depths, (sign * comparison.means).tolist(), strict=True))
    seeds = [
        Series("" if number else "one seed", list(zip(depths, scores, strict=True)), 1, "thin")
        for number, scores in enumerate((sign * comparison.scores).tolist())
    ]
    curve, fitted = analysis.curve, Series("parabola in log depth", [], 3, "dashed")
    if curve and (curve.lack_of_fit_p is None or curve.lack_of_fit_p >= 0.05):
        grid = np.geomspace(min(depths), max(depths), CURVE_POINTS).tolist()
        fitted = Series(fitted.label, [(depth, sign * curve.score(depth)) for depth in grid], 3, "dashed")
    candidates = [(depth, means[depth]) for depth in depths if depth in verdict.candidates]
    worse = [(depth, means[depth]) for depth in depths if depth not in verdict.candidates]
    return Chart(
        title,
        f"Mean {analysis.score} by depth: "
        + "; ".join(f"{depth} layers {mean:.4f}" for depth, mean in means.items())
        + ".",
        "layers",
        analysis.score,
        [
            *seeds,
            fitted,
            Series("mean over seeds", list(means.items()), 2),
            Series("cannot be told from the best", candidates, 2, "dots"),
            Series("worse", worse, 2, "circles"),
        ],
        log_x=True,
        x_ticks=depths,
    )
