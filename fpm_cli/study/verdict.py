"""The verdict of a depth study: the depths that cannot be told from the best, and what would tell them."""

from dataclasses import dataclass

from fpm_cli.study.comparison import DepthComparison

MAX_NAMED_SEEDS = 1000  # more than that is said as "over 1,000"


@dataclass(frozen=True)
class Verdict:
    """What the data carry, and the sentence that says so."""

    best: int | None  # the depth of the highest mean score; None without any run
    candidates: tuple[int, ...]  # cannot be told from the best
    runner_up: int | None  # of the candidates, the one with the second highest mean score
    more_seeds: int | None  # that would separate it from the best; None: not needed, or no number would
    sentence: str


def give_verdict(comparison: DepthComparison) -> Verdict:
    """Name the best depth only where the data single it out."""
    candidates, depths = comparison.best_set(), comparison.depths
    best = depths[comparison.best]
    seeds = _count(comparison.num_seeds, "seed")
    if len(depths) < 2:
        return Verdict(best, candidates, None, None, f"{best} layers are the only depth: nothing to compare")
    if comparison.num_seeds < 2:
        sentence = (
            f"one seed per depth: the spread between seeds is not known, so {_list(depths)} layers "
            f"cannot be told apart ({best} has the best score)"
        )
        return Verdict(best, candidates, _runner_up(comparison, candidates), None, sentence)
    if len(candidates) == 1:
        return Verdict(
            best,
            candidates,
            None,
            None,
            f"{best} layers are best ({seeds}, 95 % confidence){_edge(depths, best)}",
        )
    runner_up = _runner_up(comparison, candidates)
    assert runner_up is not None
    index = depths.index(runner_up)
    needed = comparison.seeds_to_separate(index)
    more = None if needed is None else max(1, needed - comparison.num_seeds)
    sentence = f"{_list(candidates)} layers cannot be told apart with {seeds}"
    if comparison.difference(comparison.best, index).value == 0:
        sentence += f"; {best} and {runner_up} have the same mean score"
    elif more is None:
        sentence += (
            f"; no number of seeds would separate {best} from {runner_up} on these evaluation examples"
        )
    else:
        amount = f"about {more:,}" if more <= MAX_NAMED_SEEDS else f"over {MAX_NAMED_SEEDS:,}"
        sentence += (
            f"; {amount} more would separate {best} from {runner_up} if the difference is as estimated"
        )
    return Verdict(best, candidates, runner_up, more, sentence + _edge(depths, best))


def _runner_up(comparison: DepthComparison, candidates: tuple[int, ...]) -> int | None:
    means = dict(zip(comparison.depths, comparison.means, strict=True))
    others = [depth for depth in candidates if depth != comparison.depths[comparison.best]]
    return max(others, key=lambda depth: float(means[depth])) if others else None


def _edge(depths: tuple[int, ...], best: int) -> str:
    """The optimum may lie outside the grid."""
    if best == max(depths):
        return f"; {best} is the deepest that was tried, deeper ones may be better"
    if best == min(depths):
        return f"; {best} is the shallowest that was tried, shallower ones may be better"
    return ""


def _list(depths: tuple[int, ...]) -> str:
    *first, last = map(str, depths)
    return f"{', '.join(first)} and {last}" if first else last


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
