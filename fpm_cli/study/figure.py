"""The figure of a study: the score of every run over depth, the means, and the fitted curve."""

from typing import TYPE_CHECKING

import numpy as np

from fpm_cli.reports.figures import Palette, draw
from fpm_cli.reports.page import Figure
from fpm_cli.study.analysis import ScoreAnalysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def depth_figure(analysis: ScoreAnalysis) -> Figure:
    """Scores over depth on a logarithmic axis; candidates for the best depth are filled."""
    comparison, verdict = analysis.comparison, analysis.verdict
    assert comparison is not None and verdict is not None
    depths, sign = np.array(comparison.depths), analysis.sign
    means = sign * comparison.means

    def plot(axes: "Axes", palette: Palette) -> None:
        run, mean, fit = palette.lines[:3]
        for scores in sign * comparison.scores:
            axes.plot(depths, scores, linewidth=0.8, color=run, alpha=0.45)
        axes.plot([], [], linewidth=0.8, color=run, label="one seed")
        axes.plot(depths, means, linewidth=2, color=mean, label="mean over seeds")
        kept = np.isin(depths, verdict.candidates)
        axes.scatter(
            depths[kept], means[kept], s=44, color=mean, zorder=3, label="cannot be told from the best"
        )
        axes.scatter(
            depths[~kept], means[~kept], s=44, facecolors="none", edgecolors=mean, zorder=3, label="worse"
        )
        curve = analysis.curve
        if curve and (curve.lack_of_fit_p is None or curve.lack_of_fit_p >= 0.05):
            grid = np.geomspace(depths.min(), depths.max(), 200)
            values = [sign * curve.score(float(depth)) for depth in grid]
            axes.plot(grid, values, linestyle="--", color=fit, label="parabola in log depth")
        axes.set_xscale("log")
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
        axes.set_xlabel("layers")
        axes.set_ylabel(analysis.score)
        axes.legend(fontsize=9)

    values = "; ".join(f"{depth} layers {mean:.4f}" for depth, mean in zip(depths, means, strict=True))
    return draw(plot, f"Mean {analysis.score} by depth: {values}.", verdict.sentence)
