"""Where rjieba may segment Chinese differently from jieba: single characters, and pairs of them.

rjieba (messense/jieba-rs) has jieba's dictionary, model and arithmetic, but

- it counts more characters as Chinese than jieba's regular expression does;
- its copy of the hidden Markov model is rounded to six decimals, which changes the choice between two
  paths whose probabilities are closer than that. Two paths that differ in where one word ends differ
  over two characters, and all such pairs (about six hundred) are computed here;
- at equal probability it may choose the other path. Two impossible paths are equally probable; where
  the model knows every character as a word of its own, no best path is impossible.

Paths that differ over three characters or more are not covered: in 84 MB of text none was that close.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fpm_cli.tokenization import jieba_exact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FIRST, _END = 0x4E00, 0x9FD6  # jieba's Chinese characters
# Chinese to rjieba (`is_cjk`); to jieba each is a word of its own.
_RJIEBA_ONLY = ((0x3400, 0x4DC0), (0x9FD6, 0xA000), (0xF900, 0xFB00), (0x20000, 0x2EBF0), (0x2F800, 0x2FA20))
_ROUNDING = 2.1e-6  # four emissions, each off by at most 0.5e-6, and a margin

_SINGLE, _PAIR_FIRST, _PAIR_SECOND = 1, 2, 4


@dataclass(frozen=True)
class _Differences:
    """For each code point whether it decides alone, or is the first or second of a pair that decides."""

    kinds: "NDArray[np.uint8]"  # (code points,); the last entry is for all above
    pairs: frozenset[str]


def differing_positions(text: str) -> list[int]:
    """Indices of the characters at which the two may differ, in order; most texts have none."""
    import numpy as np

    differences = _differences()
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)  # (characters,)
    kinds = differences.kinds.take(codes, mode="clip")  # (characters,); ten times as fast as indexing
    single = np.flatnonzero(kinds & _SINGLE).tolist()
    first_of_pair = np.flatnonzero((kinds[:-1] & _PAIR_FIRST) & (kinds[1:] & _PAIR_SECOND) // 2).tolist()
    paired = [index for index in first_of_pair if text[index : index + 2] in differences.pairs]
    return sorted(single + paired)


@cache
def _differences() -> _Differences:
    import numpy as np

    kinds = np.zeros(_RJIEBA_ONLY[-1][1] + 1, np.uint8)
    for begin, end in _RJIEBA_ONLY:
        kinds[begin:end] |= _SINGLE
    singles = jieba_exact.markov_model().emission["S"]
    for code in range(_FIRST, _END):
        if chr(code) not in singles:
            kinds[code] |= _SINGLE
    pairs = _rounding_pairs()
    for first, second in pairs:
        kinds[ord(first)] |= _PAIR_FIRST
        kinds[ord(second)] |= _PAIR_SECOND
    return _Differences(kinds, frozenset(first + second for first, second in pairs))


def _rounding_pairs() -> set[tuple[str, str]]:
    """Pairs of characters over which the probabilities of two paths differ by less than the rounding.

    The paths have a boundary between the two characters or not, and are equal on either side: S S or
    B E, S B or B M, E S or M E, E B or M M, after and before each state that is possible there.
    """
    import numpy as np

    model = jieba_exact.markov_model()
    step = model.transition
    emission = {  # (characters,) each
        state: np.array([model.emission[state].get(chr(code), -np.inf) for code in range(_FIRST, _END)])
        for state in "BMES"
    }
    pairs: set[tuple[str, str]] = set()
    paths = (("S", "S", "B", "E"), ("S", "B", "B", "M"), ("E", "S", "M", "E"), ("E", "B", "M", "M"))
    for one, two, other_one, other_two in paths:
        before = [step[x][one] - step[x][other_one] for x in ("ES" if one == "S" else "BM")]
        before += [model.start[one] - model.start[other_one]] if one == "S" else []
        after = [step[two][x] - step[other_two][x] for x in ("BS" if two == "S" else "ME")]
        after += [0.0] if two == "S" else []
        with np.errstate(invalid="ignore"):  # minus infinity twice: neither path is possible
            first, second = emission[one] - emission[other_one], emission[two] - emission[other_two]
        firsts, seconds = np.flatnonzero(np.isfinite(first)), np.flatnonzero(np.isfinite(second))
        seconds = seconds[np.argsort(second[seconds])]
        between = step[one][two] - step[other_one][other_two]
        for constant in (x + y + between for x in before for y in after):
            balance = -first[firsts] - constant
            low = np.searchsorted(second[seconds], balance - _ROUNDING)
            high = np.searchsorted(second[seconds], balance + _ROUNDING)
            for index in np.flatnonzero(high > low):
                for closing in seconds[low[index] : high[index]]:
                    pairs.add((chr(_FIRST + firsts[index]), chr(_FIRST + closing)))
    return pairs
