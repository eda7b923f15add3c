"""Non-negative least squares of relative errors: seconds per unit of each kind of work.

It needs no numerical library, whose import would slow `--dry-run` down.
"""

from collections.abc import Sequence

SWEEPS = 20_000
TOLERANCE = 1e-10


def fit_rates(amounts: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """The rates r >= 0 that minimise the sum of (amounts @ r / seconds - 1)^2.

    Args:
        amounts: (observations, kinds).
        seconds: (observations,), above 0.

    Cyclic coordinate descent on columns scaled to at most 1; the problem is convex.
    """
    rows = [[value / time for value in row] for row, time in zip(amounts, seconds, strict=True)]
    scales = [max(column) or 1.0 for column in zip(*rows, strict=True)]
    rows = [[value / scale for value, scale in zip(row, scales, strict=True)] for row in rows]
    kinds = range(len(scales))
    gram = [[sum(row[i] * row[j] for row in rows) for j in kinds] for i in kinds]
    target = [sum(row[i] for row in rows) for i in kinds]
    rates = [0.0] * len(scales)
    for _ in range(SWEEPS):
        moved = 0.0
        for i in kinds:
            if gram[i][i] == 0:
                continue
            slope = target[i] - sum(g * rate for g, rate in zip(gram[i], rates, strict=True))
            new = max(0.0, rates[i] + slope / gram[i][i])
            moved = max(moved, abs(new - rates[i]))
            rates[i] = new
        if moved < TOLERANCE:
            break
    return [rate / scale for rate, scale in zip(rates, scales, strict=True)]
