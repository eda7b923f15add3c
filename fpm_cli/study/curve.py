"""The score as a parabola in the logarithm of the depth: its optimum with an interval, and whether it
fits."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from fpm_cli.study.comparison import LEVEL, DepthComparison, student_quantile

COEFFICIENTS = 3


@dataclass(frozen=True)
class DepthCurve:
    """`score = a + b x + c x^2` with `x = ln(depth)`, fitted to the mean scores of the depths.

    `optimum` is None where the parabola opens upwards, `low` and `high` where the interval has no end there.
    `lack_of_fit_p` is the p-value of the F test of the parabola against one mean per depth; None with three
    depths, through which every parabola passes, or with one seed.
    """

    coefficients: tuple[float, float, float]
    optimum: float | None  # in layers
    low: float | None
    high: float | None
    lack_of_fit_p: float | None

    def score(self, depth: float) -> float:
        """The fitted score at a depth."""
        x = math.log(depth)
        a, b, c = self.coefficients
        return a + b * x + c * x * x


def fit_curve(comparison: DepthComparison, level: float = LEVEL) -> DepthCurve | None:
    """Fit the parabola by least squares; None with fewer than three depths.

    The interval of the optimum is Fieller's (Fieller 1954): the depths at which the slope `b + 2 c x` cannot
    be told from zero. The residual variance is that of the seeds, not that of the fit, so that a bad fit does
    not widen it.
    """
    if len(comparison.depths) < COEFFICIENTS:
        return None
    x = np.log(np.asarray(comparison.depths, dtype=np.float64))
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    coefficients, _, _, _ = np.linalg.lstsq(design, comparison.means, rcond=None)
    a, b, c = map(float, coefficients)
    optimum = math.exp(-b / (2 * c)) if c < 0 else None
    if comparison.num_seeds < 2:
        return DepthCurve((a, b, c), optimum, None, None, None)
    variance = comparison.residual_std**2 / comparison.num_seeds  # of a mean
    covariance = np.linalg.inv(design.T @ design) * variance
    quantile = student_quantile(0.5 + level / 2, comparison.df)
    low, high = _fieller(b, 2 * c, covariance, quantile) if c < 0 else (None, None)
    residual = float(((comparison.means - design @ coefficients) ** 2).sum())
    return DepthCurve((a, b, c), optimum, low, high, _lack_of_fit(comparison, residual, variance))


def _fieller(
    intercept: float, slope: float, covariance: np.ndarray, quantile: float
) -> tuple[float | None, float | None]:
    """The range of exp(x) in which `intercept + slope x` is within `quantile` standard errors of zero."""
    v_bb, v_bs, v_ss = (float(v) for v in (covariance[1, 1], 2 * covariance[1, 2], 4 * covariance[2, 2]))
    q = quantile**2
    # (intercept + slope x)^2 <= q (v_bb + 2 v_bs x + v_ss x^2), a quadratic inequality in x
    a2 = slope**2 - q * v_ss
    a1 = 2 * (intercept * slope - q * v_bs)
    a0 = intercept**2 - q * v_bb
    discriminant = a1**2 - 4 * a2 * a0
    if a2 <= 0 or discriminant < 0:  # the curvature itself cannot be told from zero
        return None, None
    root = math.sqrt(discriminant)
    return math.exp((-a1 - root) / (2 * a2)), math.exp((-a1 + root) / (2 * a2))


def _lack_of_fit(comparison: DepthComparison, residual: float, variance: float) -> float | None:
    df_fit = len(comparison.depths) - COEFFICIENTS
    if df_fit == 0:
        return None
    if variance == 0:
        return 0.0 if residual > 0 else 1.0
    return float(special.fdtrc(df_fit, comparison.df, residual / df_fit / variance))
