"""Where rjieba may cut Chinese otherwise than jieba does: characters and pairs that decide it.

rjieba (messense/jieba-rs) has jieba's dictionary, model and arithmetic, but

- it counts more characters as Chinese than jieba's regular expression does;
- its copy of the hidden Markov model is rounded to six decimals, which tips the balance between two
  paths that are closer than that. Two paths that differ in where one word ends differ over two
  characters, and all such pairs are listed here, some six hundred;
- at equal probability it may decide the other way. Two impossible paths are equal; where every
  character has been seen as a word of its own, no best path is impossible.

Paths that differ over three characters or more are not listed: in 84 MB of text none was that close.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fpm_cli.tokenization import jieba_exact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FIRST, _END = 0x4E00, 0x9FD6  # jieba's Chinese characters
# Chinese to rjieba (`is_cjk`), each a word of its own to jieba.
_BEYOND = ((0x3400, 0x4DC0), (0x9FD6, 0xA000), (0xF900, 0xFB00), (0x20000, 0x2EBF0), (0x2F800, 0x2FA20))
_ROUNDING = 2.1e-6  # four emissions, each off by at most 0.5e-6, and some room

_ALONE, _OPENS, _CLOSES = 1, 2, 4


@dataclass(frozen=True)
class _Doubts:
    """For each code point whether it is doubtful alone, or opens or closes a doubtful pair."""

    kinds: "NDArray[np.uint8]"  # (code points,); the last entry stands for all above
    pairs: frozenset[str]


def doubtful_positions(text: str) -> list[int]:
    """Indices of the characters on which the two may part, in order; most texts have none."""
    import numpy as np

    doubts = _doubts()
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)  # (characters,)
    kinds = doubts.kinds[np.minimum(codes, len(doubts.kinds) - 1)]  # (characters,)
    alone = np.flatnonzero(kinds & _ALONE).tolist()
    opening = np.flatnonzero((kinds[:-1] & _OPENS) & (kinds[1:] & _CLOSES) // 2).tolist()
    paired = [index for index in opening if text[index : index + 2] in doubts.pairs]
    return sorted(alone + paired)


@cache
def _doubts() -> _Doubts:
    import numpy as np

    kinds = np.zeros(_BEYOND[-1][1] + 1, np.uint8)
    for begin, end in _BEYOND:
        kinds[begin:end] |= _ALONE
    singles = jieba_exact.markov_model().emission["S"]
    for code in range(_FIRST, _END):
        if chr(code) not in singles:
            kinds[code] |= _ALONE
    pairs = _close_pairs()
    for first, second in pairs:
        kinds[ord(first)] |= _OPENS
        kinds[ord(second)] |= _CLOSES
    return _Doubts(kinds, frozenset(first + second for first, second in pairs))


def _close_pairs() -> set[tuple[str, str]]:
    """Pairs of characters over which two ways of cutting are closer than the rounding.

    A boundary between the two, or none, with the same on either side: S S or B E, S B or B M,
    E S or M E, E B or M M, after and before each state that can stand there.
    """
    import numpy as np

    model = jieba_exact.markov_model()
    step = model.transition
    emission = {  # (characters,) each
        state: np.array([model.emission[state].get(chr(code), -np.inf) for code in range(_FIRST, _END)])
        for state in "BMES"
    }
    pairs: set[tuple[str, str]] = set()
    ways = (("S", "S", "B", "E"), ("S", "B", "B", "M"), ("E", "S", "M", "E"), ("E", "B", "M", "M"))
    for one, two, other_one, other_two in ways:
        before = [step[x][one] - step[x][other_one] for x in ("ES" if one == "S" else "BM")]
        before += [model.start[one] - model.start[other_one]] if one == "S" else []
        after = [step[two][x] - step[other_two][x] for x in ("BS" if two == "S" else "ME")]
        after += [0.0] if two == "S" else []
        with np.errstate(invalid="ignore"):  # minus infinity twice: neither way is possible
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
