"""The paper's Table 3 as a depth study: five depths, one seed each, 40,430 pairs, binomial errors only."""

import math
from dataclasses import dataclass

from fpm_cli.accounting.paper_tables import QQP_DEV_PAIRS, TABLE3, Finding
from fpm_cli.study.comparison import critical_value, seeds_needed

DEPTHS = {"BERT-E-S": 50, "BERT-E-M": 60, "BERT-E-L": 70, "BERT-E-X": 80, "BERT-E-E": 90}
SEED_STDS = (0.1, 0.2, 0.3, 0.5)  # points of accuracy between seeds of one depth
DISAGREEMENT = 0.06  # share of pairs on which two models that err on 9 % give different answers; assumed


@dataclass(frozen=True)
class PaperDepth:
    """One row of Table 3, in per cent."""

    model: str
    depth: int
    accuracy: float
    standard_error: float  # binomial, of 40,430 pairs


@dataclass(frozen=True)
class PaperVerdict:
    """What Table 3 can and cannot support; differences in points of accuracy."""

    rows: tuple[PaperDepth, ...]
    best: PaperDepth
    runner_up: PaperDepth
    gap: float
    gap_standard_errors: float  # binomial errors of two independent samples
    largest_seed_std: float  # above this spread between seeds the gap supports no single winner
    seeds_needed: tuple[tuple[float, int | None], ...]  # (spread between seeds, seeds per depth)
    sentence: str


def analyse_table3() -> PaperVerdict:
    """Put the paper's five depths through the comparison with the best.

    With one seed the spread between seeds is not known, and the verdict names no winner. What can be computed
    is how small that spread would have to be, and how many seeds would single out the best depth at a given
    spread if the printed accuracies were the true means (probability 0.9; all depths scored on the same
    pairs).
    """
    rows = tuple(
        PaperDepth(model, DEPTHS[model], accuracy, 100 * _binomial_error(accuracy / 100))
        for model, (_, _, _, accuracy) in TABLE3.items()
    )
    best, runner_up, *_ = sorted(rows, key=lambda row: -row.accuracy)
    gap = best.accuracy - runner_up.accuracy
    binomial = math.hypot(best.standard_error, runner_up.standard_error)
    critical = critical_value(len(rows), math.inf)
    # The gap is critical * sqrt(binomial^2 + 2 std^2) at the largest spread that would still name one winner.
    largest = math.sqrt(max(0.0, (gap / critical) ** 2 - binomial**2) / 2)
    deficits = [best.accuracy - row.accuracy for row in rows if row is not best]
    shared = 100**2 * DISAGREEMENT / QQP_DEV_PAIRS  # variance of a paired difference of accuracies
    needed = tuple((std, seeds_needed(deficits, std, len(rows), shared_variance=shared)) for std in SEED_STDS)
    sentence = (
        f"Table 3 cannot support that {best.depth} layers are best: it has one seed per depth. The gap of "
        f"{gap:.2f} points between {best.model} and {runner_up.model} is {gap / binomial:.1f} binomial "
        f"standard errors; if seeds of one depth spread by more than {largest:.2f} points, no winner can be "
        "named, and fine-tuning BERT-Large is known to spread by several tenths"
    )
    return PaperVerdict(rows, best, runner_up, gap, gap / binomial, largest, needed, sentence)


def audit_best_depth() -> Finding:
    """The paper's conclusion from Table 3 beside what its figures support, for `fpm cost-report`."""
    verdict = analyse_table3()
    needed = "; ".join(
        f"{std:.1f} points of spread between seeds: {'over 10,000' if seeds is None else f'{seeds:,}'}"
        for std, seeds in verdict.seeds_needed
    )
    return Finding(
        table="Table 3",
        row="the best depth",
        printed=f"{verdict.best.depth} layers",
        recomputed="no single winner",
        explanation=f"{verdict.sentence}. Seeds per depth that would name it alone, at {needed}",
    )


def _binomial_error(share: float) -> float:
    return math.sqrt(share * (1 - share) / QQP_DEV_PAIRS)
