from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.objectives.causal import CausalSamples
from tests.objectives.memory_corpus import make_corpus

EOD = 7
# Three documents, each ended by <eod>: 5 + 3 + 6 = 14 tokens.
DOCUMENTS = [[[10, 11, 12, 13, EOD]], [[20, 21, EOD]], [[30, 31, 32, 33, 34, EOD]]]


def causal(num_tokens: int, length: int, split: str = "validation") -> CausalSamples:
    corpus = make_corpus("gpt-en", [[list(range(num_tokens))]], vocab_size=num_tokens)
    return CausalSamples(corpus, split, sequence_length=length, seed=1)


@given(st.integers(2, 400), st.integers(1, 50))
def test_number_of_samples_is_tokens_less_one_over_length(num_tokens: int, length: int) -> None:
    if num_tokens <= length:
        with pytest.raises(UsageError, match=f"one sample takes {length + 1} tokens"):
            causal(num_tokens, length)
    else:
        assert len(causal(num_tokens, length)) == (num_tokens - 1) // length


def test_samples_overlap_by_one_and_every_token_but_the_first_is_a_label_once() -> None:
    samples = list(causal(1 + 6 * 16 + 5, 16))
    assert all(a["labels"][-1] == b["tokens"][0] for a, b in pairwise(samples))
    assert np.concatenate([sample["labels"] for sample in samples]).tolist() == list(range(1, 97))
    assert all(np.array_equal(sample["labels"][:-1], sample["tokens"][1:]) for sample in samples)


def test_an_epoch_in_training_has_the_same_samples_in_another_order() -> None:
    starts = [int(sample["tokens"][0]) for sample in causal(16 * 50 + 1, 16, "train")]
    assert sorted(starts) == list(range(0, 16 * 50, 16))
    assert starts != sorted(starts)


def test_samples_run_across_document_borders_which_stay_marked_by_eod() -> None:
    samples = CausalSamples(make_corpus("gpt-en", DOCUMENTS), "validation", sequence_length=4, seed=1)
    assert len(samples) == 3
    assert [sample["tokens"].tolist() for sample in samples] == [
        [10, 11, 12, 13],
        [EOD, 20, 21, EOD],
        [30, 31, 32, 33],
    ]
    assert samples[1]["labels"].tolist() == [20, 21, EOD, 30]
    assert all(sample["loss_mask"].tolist() == [1, 1, 1, 1] for sample in samples)


def test_masking_eod_leaves_out_what_follows_it_but_still_teaches_to_end() -> None:
    corpus = make_corpus("gpt-en", DOCUMENTS)
    samples = CausalSamples(corpus, "validation", sequence_length=4, seed=1, mask_eod=True)
    assert samples[0]["loss_mask"].tolist() == [1, 1, 1, 1]
    assert samples[1]["tokens"].tolist() == [EOD, 20, 21, EOD]
    assert samples[1]["loss_mask"].tolist() == [0, 1, 1, 0]


def test_masking_eod_needs_an_eod() -> None:
    corpus = make_corpus("bert-en", [[list(range(20))]])
    with pytest.raises(DamagedError, match="bert-en tokenizer has no 'eod'"):
        CausalSamples(corpus, "train", sequence_length=4, seed=1, mask_eod=True)


def test_documents_are_numbered_from_one_eod_to_the_next() -> None:
    corpus = make_corpus("gpt-en", DOCUMENTS)
    samples = CausalSamples(corpus, "validation", sequence_length=7, seed=1, document_mask=True)
    assert samples[0]["tokens"].tolist() == [10, 11, 12, 13, EOD, 20, 21]
    assert samples[0]["documents"].tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert samples[0]["loss_mask"].tolist() == [1] * 7
