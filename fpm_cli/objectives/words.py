"""Whole-word n-gram masking: which tokens a masked language model predicts, and what replaces them.

15 % of the tokens, in runs of 1 to 3 whole words with probability 6/11, 3/11 and 2/11 (proportional to
1/n); of those tokens 80 % become `[MASK]`, 10 % a random token, 10 % stay, decided per token.
Sources: NVIDIA/Megatron-LM v2.5, megatron/data/dataset_utils.py (`create_masked_lm_predictions`);
Lan et al., "ALBERT", ICLR 2020, section 4.1; Devlin et al., "BERT", NAACL 2019, section 3.1. Megatron
drops an n-gram that overlaps an earlier one, which favours short ones; here it is tried at another position,
so that the lengths keep the stated probabilities. Random tokens are never special ones.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fpm_cli.objectives.base import Ids

MASKED_SHARE = 0.15  # by default; `train.masked_share`
NGRAM_LENGTHS = np.array([1] * 6 + [2] * 3 + [3] * 2)  # equally likely entries: P(n) = 6/11, 3/11, 2/11
TRIES_PER_TOKEN = 8  # positions tried per token to mask; about 1.5 are needed


class WordRun(NamedTuple):
    """`length` consecutive words, the first of them number `first`."""

    first: int
    length: int


def num_masked(num_tokens: int, share: float = MASKED_SHARE) -> int:
    """How many of `num_tokens` ordinary tokens are masked, at most."""
    return max(1, round(share * num_tokens))


def choose_runs(
    bounds: list[int], blocked: npt.NDArray[np.bool_], budget: int, random: np.random.Generator
) -> list[WordRun]:
    """Disjoint runs of whole words with at most `budget` tokens in total.

    Word w has tokens bounds[w] to bounds[w + 1]; a word that is `blocked` is in no run. A run that
    exceeds the remaining budget is shortened one word at a time.
    """
    num_words = len(blocked)
    assert num_words >= NGRAM_LENGTHS.max()
    taken = bytearray(blocked)  # 1 where blocked or in a run
    lengths = iter(NGRAM_LENGTHS[random.integers(len(NGRAM_LENGTHS), size=budget)].tolist())
    length, runs = next(lengths), []
    for fraction in random.random(TRIES_PER_TOKEN * budget).tolist():
        first = int(fraction * (num_words - length + 1))
        end = first + length
        if taken.find(1, first, end) >= 0:
            continue
        size = bounds[end] - bounds[first]
        if size > budget:
            length = max(1, length - 1)
            continue
        taken[first:end] = b"\1" * length
        runs.append(WordRun(first, length))
        budget -= size
        if not budget:
            break
        length = next(lengths)
    return runs


def choose_tokens(
    word_starts: npt.NDArray[np.bool_],
    special: npt.NDArray[np.bool_],
    random: np.random.Generator,
    share: float = MASKED_SHARE,
) -> Ids:
    """Positions (num_masked,) of the tokens to predict, in order; at least one.

    `word_starts` and `special` (n,) say where words begin and which tokens are special; a special token
    begins a word, and so does the token after it. In a text of a few words, where no run fits, one of the
    shortest words is taken, or as much of it as `share` of the tokens allows.
    """
    starts = np.flatnonzero(word_starts)
    bounds = [*starts.tolist(), len(word_starts)]
    blocked = special[starts]
    budget = num_masked(int(np.count_nonzero(~special)), share)
    chosen = np.zeros(len(word_starts), dtype=np.bool_)
    for first, length in choose_runs(bounds, blocked, budget, random):
        chosen[bounds[first] : bounds[first + length]] = True
    if not chosen.any():
        sizes = np.where(blocked, len(word_starts), np.diff(bounds))
        word = int(random.choice(np.flatnonzero(sizes == sizes.min())))
        chosen[bounds[word] : min(bounds[word + 1], bounds[word] + budget)] = True
    return np.flatnonzero(chosen)


def corrupt(ids: Ids, mask_id: int, ordinary: Ids, random: np.random.Generator) -> Ids:
    """The replacement of `ids` (n,): 80 % `mask_id`, 10 % one of `ordinary`, 10 % unchanged."""
    draw = random.random(len(ids))
    replaced = ordinary[random.integers(len(ordinary), size=len(ids))]
    return np.where(draw < 0.8, mask_id, np.where(draw < 0.9, replaced, ids))
