"""Which depths cannot be told from the best: multiple comparisons with the best over seeds as blocks.

Every depth is trained with the same seeds, so a score is modelled as `mean of the depth + effect of the seed
+ residual` (a randomised block design; Hsu, "Multiple Comparisons", 1996, chapters 4 and 7). A depth stays in
the set unless the best one beats it by more than `critical_value` standard errors of their difference. That
value keeps the truly best depth in the set in 95 % of studies, and names a single winner in at most 5 % where
all depths are equal.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special  # not scipy.stats, whose import takes longer than `fpm cost-report` may

LEVEL = 0.95
POWER = 0.9
MAX_SEEDS = 10_000
NODES = 96  # of each quadrature; `tests/study` compares with scipy's multivariate t distribution
CRITICAL_TOLERANCE = 1e-6

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How much better one depth scored than another, with its 95 % confidence interval."""

    value: float  # positive: the first is better
    standard_error: float
    df: float  # degrees of freedom of the standard error
    low: float
    high: float


@dataclass(frozen=True)
class DepthComparison:
    """The scores of one study, higher is better.

    `example_variances[a, b]` is the part of the variance of a difference that comes from the evaluation
    examples, which all runs share and which more seeds do not reduce; zero where the score is a loss on a
    large text.
    """

    depths: tuple[int, ...]
    scores: Array  # (num_seeds, num_depths)
    example_variances: Array  # (num_depths, num_depths)

    @property
    def num_seeds(self) -> int:
        """Trained runs per depth."""
        return int(self.scores.shape[0])

    @property
    def means(self) -> Array:
        """The mean score of each depth, (num_depths,)."""
        means: Array = self.scores.mean(axis=0)
        return means

    @property
    def df(self) -> int:
        """Degrees of freedom of `residual_std`."""
        return (self.num_seeds - 1) * (len(self.depths) - 1)

    @property
    def residuals(self) -> Array:
        """What depth and seed do not explain, (num_seeds, num_depths)."""
        by_seed = self.scores.mean(axis=1, keepdims=True)
        residuals: Array = self.scores - self.means - by_seed + self.scores.mean()
        return residuals

    @property
    def residual_std(self) -> float:
        """Standard deviation of a score around its depth and seed, pooled over depths; needs two seeds."""
        return math.sqrt(float((self.residuals**2).sum()) / self.df)

    @property
    def best(self) -> int:
        """The index of the depth with the highest mean score."""
        return int(self.means.argmax())

    def difference(self, first: int, second: int, level: float = LEVEL) -> Difference:
        """The mean score at index `first` less that at `second`, with a t interval.

        Seeds and examples are two sources of variance, and the degrees of freedom are Satterthwaite's: what a
        two-level bootstrap (seeds, then examples) estimates, without its bias at few seeds.
        """
        value = float(self.means[first] - self.means[second])
        seeds_variance = 2 * self.residual_std**2 / self.num_seeds
        variance = seeds_variance + float(self.example_variances[first, second])
        df = self.df * (variance / seeds_variance) ** 2 if seeds_variance else math.inf
        margin = student_quantile(0.5 + level / 2, df) * math.sqrt(variance)
        return Difference(value, math.sqrt(variance), df, value - margin, value + margin)

    def best_set(self) -> tuple[int, ...]:
        """The depths that cannot be told from the best, in order; all of them with one seed only."""
        if self.num_seeds < 2 or len(self.depths) < 2:
            return self.depths
        kept = []
        for index, depth in enumerate(self.depths):
            if index != self.best:
                difference = self.difference(self.best, index)
                if difference.value > self._critical(difference.df) * difference.standard_error:
                    continue
            kept.append(depth)
        return tuple(kept)

    def seeds_to_separate(self, index: int, power: float = POWER) -> int | None:
        """Seeds with which the depth at `index` would leave the set with probability `power`.

        The differences are taken to be as estimated. None: the evaluation examples alone leave too much
        doubt.
        """
        return self._seeds_needed([index], power)

    def seeds_for_single_winner(self, power: float = POWER) -> int | None:
        """Seeds with which the best depth would stand alone with probability `power`; None as above."""
        return self._seeds_needed([i for i in range(len(self.depths)) if i != self.best], power)

    def _critical(self, df: float) -> float:
        return critical_value(len(self.depths), df)

    def _seeds_needed(self, others: Sequence[int], power: float) -> int | None:
        deficits = [float(self.means[self.best] - self.means[other]) for other in others]
        shared = max(float(self.example_variances[self.best, other]) for other in others)
        return seeds_needed(deficits, self.residual_std, len(self.depths), power, shared)


def compare_depths(
    depths: Sequence[int], scores: npt.ArrayLike, examples: npt.ArrayLike | None = None
) -> DepthComparison:
    """Build the comparison of a study.

    Args:
        depths: the number of layers of each column. scores: (num_seeds, num_depths), higher is better.
        examples: (num_seeds, num_depths, num_examples), the score of each evaluation example, whose mean is
        `scores`;
            None where the examples are so many that they add no variance.
    """
    matrix = np.asarray(scores, dtype=np.float64)
    assert matrix.ndim == 2 and matrix.shape[1] == len(depths)
    variances = np.zeros((len(depths), len(depths)))
    if examples is not None:
        per_example = np.asarray(examples, dtype=np.float64)
        for first in range(len(depths)):
            for second in range(first):
                variance = example_variance(per_example[:, first] - per_example[:, second])
                variances[first, second] = variances[second, first] = variance
    return DepthComparison(tuple(depths), matrix, variances)


def example_variance(differences: Array) -> float:
    """The variance that the choice of examples gives to the mean of `differences` (num_seeds, num_examples).

    The component of examples in a two-way random-effects analysis of variance (seeds x examples), at least 0;
    with one seed the residual cannot be told from it, and the variance of the mean over examples is returned.
    """
    num_seeds, num_examples = map(int, differences.shape)
    by_example = differences.mean(axis=0)
    between = float(by_example.var(ddof=1)) * num_seeds
    if num_seeds == 1:
        return between / num_examples
    residuals = differences - by_example - differences.mean(axis=1, keepdims=True) + differences.mean()
    within = float((residuals**2).sum()) / ((num_seeds - 1) * (num_examples - 1))
    return max(0.0, between - within) / (num_seeds * num_examples)


@lru_cache(maxsize=256)
def critical_value(num_depths: int, df: float, level: float = LEVEL) -> float:
    """Standard errors by which the best must beat a depth to exclude it.

    The larger of two values: Dunnett's one-sided one, which keeps the truly best depth in the set with
    probability `level`, and the one at which a single winner among equal depths has probability 1 - `level`
    (larger with two depths only, where it is Student's two-sided value).
    """
    others = num_depths - 1
    upper = 10.0 + 2000.0 / df**2

    def keeps_best(critical: float) -> bool:
        return _all_below(others, critical, df) >= level

    def rarely_alone(critical: float) -> bool:
        return num_depths * win_probability([0.0] * others, critical, df) <= 1 - level

    critical = _least(keeps_best, upper)
    return critical if rarely_alone(critical) else _least(rarely_alone, upper)


def student_quantile(probability: float, df: float) -> float:
    """Of Student's t distribution; with infinite `df`, of the standard normal one."""
    return float(special.stdtrit(df, probability) if math.isfinite(df) else special.ndtri(probability))


def _least(holds: Callable[[float], bool], upper: float) -> float:
    """The least value above 0 from which `holds` is true, by bisection; it must be true at `upper`."""
    lower = 0.0
    while upper - lower > CRITICAL_TOLERANCE:
        middle = (lower + upper) / 2
        lower, upper = (lower, middle) if holds(middle) else (middle, upper)
    return upper


def win_probability(shifts: Sequence[float], critical: float, df: float) -> float:
    """The probability that one depth beats every other by more than `critical` standard errors.

    Args:
        shifts: by how much its true mean is above each other's, in standard errors of one mean.
        critical: in standard errors of a difference of two means.
        df: degrees of freedom of the estimated residual variance.
    """
    z, weights_z, u, weights_u = _nodes(df)
    thresholds = z[:, None] - math.sqrt(2) * critical * u[None, :]  # (Z, U)
    product = np.ones_like(thresholds)
    for shift in set(shifts):
        product *= special.ndtr(shift + thresholds) ** shifts.count(shift)
    return float(weights_z @ product @ weights_u)


def seeds_needed(
    deficits: Sequence[float],
    residual_std: float,
    num_depths: int,
    power: float = POWER,
    shared_variance: float = 0.0,
) -> int | None:
    """The least number of seeds at which the best depth beats these others with probability `power`.

    Args:
        deficits: by how much the true mean of each other depth is below the best, at least 0.
        residual_std: of one score around its depth and seed.
        num_depths: in the study, on which the critical value depends.
        shared_variance: of a difference, from the evaluation examples, which seeds do not reduce.

    Returns:
        None where more than MAX_SEEDS were needed.
    """

    def enough(num_seeds: int) -> bool:
        df = float((num_seeds - 1) * (num_depths - 1))
        of_seeds = 2 * residual_std**2 / num_seeds
        variance = of_seeds + shared_variance
        if variance == 0:
            return min(deficits) > 0
        df *= (variance / of_seeds) ** 2 if of_seeds else 1.0
        deviation = math.sqrt(variance / 2)
        critical = critical_value(num_depths, round(df, 3))
        return win_probability([deficit / deviation for deficit in deficits], critical, df) >= power

    high = 2
    while not enough(high):
        if high >= MAX_SEEDS:
            return None
        high *= 2
    low = high // 2  # not enough, or below the least number of seeds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return max(high, 2)


def _all_below(others: int, critical: float, df: float) -> float:
    """Dunnett's one-sided distribution: every standardised difference to one mean is at most `critical`."""
    z, weights_z, u, weights_u = _nodes(df)
    below = special.ndtr(math.sqrt(2) * critical * u[None, :] - z[:, None]) ** others
    return float(weights_z @ below @ weights_u)


@lru_cache(maxsize=64)
def _nodes(df: float) -> tuple[Array, Array, Array, Array]:
    """Quadrature over a standard normal z and over u, the square root of chi-square over its df."""
    z, weights_z, share, weights_u = _standard_nodes()
    u = np.sqrt(2 * special.gammaincinv(df / 2, share) / df) if math.isfinite(df) else np.ones_like(share)
    return z, weights_z, u, weights_u


@cache
def _standard_nodes() -> tuple[Array, Array, Array, Array]:
    """Nodes and weights over a standard normal, where these matter in float64, and over 0 to 1."""
    z, weights_z = np.polynomial.hermite_e.hermegauss(NODES)
    share, weights_u = np.polynomial.legendre.leggauss(NODES)
    weights_z /= math.sqrt(2 * math.pi)
    counts = weights_z > np.finfo(np.float64).eps ** 2
    return z[counts], weights_z[counts], (share + 1) / 2, weights_u / 2
