import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fpm_cli.objectives.words import WordRun, choose_runs, choose_tokens, corrupt, num_masked


def text(num_words: int, seed: int, most: int = 4) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Word starts and special tokens of `[CLS] words [SEP] words [SEP]`, 1 to `most` tokens per word."""
    sizes = np.random.default_rng(seed).integers(1, most + 1, size=num_words)
    sizes[[0, num_words // 2, -1]] = 1
    starts = np.zeros(sizes.sum(), dtype=np.bool_)
    starts[np.cumsum(sizes) - sizes] = True
    special = np.zeros(len(starts), dtype=np.bool_)
    special[(np.cumsum(sizes) - sizes)[[0, num_words // 2, -1]]] = True
    return starts, special


def one_token_words(num_words: int, budget: int, seed: int) -> list[WordRun]:
    blocked = np.zeros(num_words, dtype=np.bool_)
    return choose_runs(list(range(num_words + 1)), blocked, budget, np.random.default_rng(seed))


def test_lengths_of_ngrams_are_six_three_and_two_in_eleven() -> None:
    # The last run of a text may be cut short by the budget, so it is left out.
    lengths = [run.length for seed in range(100) for run in one_token_words(2000, 300, seed)[:-1]]
    counts = np.bincount(lengths, minlength=4)[1:]
    assert len(lengths) > 15_000
    assert stats.chisquare(counts, np.array([6, 3, 2]) / 11 * len(lengths)).pvalue > 1e-3


def test_runs_are_disjoint_and_fill_the_budget_exactly() -> None:
    for seed in range(50):
        words = [word for first, n in one_token_words(500, 75, seed) for word in range(first, first + n)]
        assert len(words) == len(set(words)) == 75


def test_every_word_is_masked_equally_often() -> None:
    counts = np.zeros(100)
    for seed in range(2000):
        for first, length in one_token_words(100, 15, seed):
            counts[first : first + length] += 1
    inner = counts[2:-2]  # fewer n-grams hold the first and last words
    assert counts.sum() == 2000 * 15
    assert inner.min() / 2000 > 0.12
    assert inner.max() / 2000 < 0.18


@given(st.integers(5, 200), st.integers(1, 6), st.integers(0, 2**32))
def test_whole_words_are_masked_never_specials_never_above_the_cap(
    num_words: int, most: int, seed: int
) -> None:
    starts, special = text(num_words, seed, most)
    chosen = choose_tokens(starts, special, np.random.default_rng(seed))
    masked = np.zeros(len(starts), dtype=np.bool_)
    masked[chosen] = True
    cap = max(1, round(0.15 * int((~special).sum())))
    assert 1 <= masked.sum() <= cap
    assert not masked[special].any()
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    words = np.split(masked, np.flatnonzero(starts)[1:])
    cut = [word for word in words if word.any() and not word.all()]
    ordinary = [len(word) for word, is_special in zip(words, special[starts], strict=True) if not is_special]
    assert not cut or min(ordinary) > cap  # a word in part only where no whole one is short enough


def test_share_of_masked_tokens_is_fifteen_percent() -> None:
    masked = total = 0
    for seed in range(300):
        starts, special = text(350, seed)
        masked += len(choose_tokens(starts, special, np.random.default_rng(seed)))
        total += int((~special).sum())
    assert masked / total == pytest.approx(0.15, abs=0.0005)


def test_runs_do_not_reach_across_a_blocked_word() -> None:
    blocked = np.zeros(60, dtype=np.bool_)
    blocked[[0, 30, 59]] = True
    for seed in range(300):
        for first, length in choose_runs(list(range(61)), blocked, 20, np.random.default_rng(seed)):
            assert not blocked[first : first + length].any()


@pytest.mark.parametrize(("num_tokens", "expected"), [(1, 1), (3, 1), (10, 2), (61, 9), (125, 19), (509, 76)])
def test_cap_is_fifteen_percent_rounded_and_at_least_one(num_tokens: int, expected: int) -> None:
    assert num_masked(num_tokens) == expected


def test_a_word_longer_than_the_cap_is_masked_in_part_where_nothing_else_fits() -> None:
    starts = np.array([1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1], dtype=np.bool_)
    special = np.zeros(13, dtype=np.bool_)
    special[[0, 6, 12]] = True
    for seed in range(20):
        chosen = choose_tokens(starts, special, np.random.default_rng(seed)).tolist()
        assert chosen in ([1, 2], [7, 8])


def test_of_masked_tokens_80_percent_are_hidden_10_random_10_kept() -> None:
    ids = np.full(100_000, 50)
    ordinary = np.arange(100, 1000)  # without 50, so that a random id is never the original
    seen = corrupt(ids, 4, ordinary, np.random.default_rng(0))
    counts = [int((seen == 4).sum()), int((seen >= 100).sum()), int((seen == 50).sum())]
    assert stats.chisquare(counts, [80_000, 10_000, 10_000]).pvalue > 1e-3
    drawn = np.bincount(seen[seen >= 100] - 100, minlength=900)
    assert stats.chisquare(drawn).pvalue > 1e-3


def test_the_fate_of_a_token_does_not_depend_on_its_neighbour() -> None:
    hidden = corrupt(np.full(50_000, 50), 4, np.arange(100, 1000), np.random.default_rng(1)) == 4
    both = int((hidden[:-1:2] & hidden[1::2]).sum())
    assert stats.binomtest(both, 25_000, 0.64).pvalue > 1e-3
