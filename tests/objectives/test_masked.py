from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.objectives.base import Sample
from fpm_cli.objectives.masked import MaskedSamples
from tests.objectives.memory_corpus import SPECIALS, MemoryCorpus, make_corpus, sentence_corpus

SPECIAL = SPECIALS["bert-en"]


class Parts(NamedTuple):
    """The original segments of a sample in the order of the text, and its length."""

    first: list[int]
    second: list[int]
    num_tokens: int


def masked(corpus: MemoryCorpus, length: int = 128, split: str = "train") -> MaskedSamples:
    return MaskedSamples(corpus, split, sequence_length=length, seed=1)


def parts(sample: Sample) -> Parts:
    """Read a sample back from its labels and token types, checking its frame."""
    n = int(sample["attention_mask"].sum())
    ids, types = sample["labels"].tolist(), sample["token_types"].tolist()
    a_end = types.index(1) - 1
    assert ids[0] == SPECIAL.cls
    assert ids[a_end] == ids[n - 1] == SPECIAL.sep
    assert types == [0] * (a_end + 1) + [1] * (n - a_end - 1) + [0] * (len(ids) - n)
    assert sample["attention_mask"].tolist() == [True] * n + [False] * (len(ids) - n)
    assert set(ids[n:]) <= {SPECIAL.pad}
    a, b = ids[1:a_end], ids[a_end + 1 : n - 1]
    assert a and b
    return Parts(b, a, n) if sample["sentence_order"] else Parts(a, b, n)


def serial_corpus(documents: list[list[int]], word: int = 1) -> MemoryCorpus:
    """Sentences of the given sizes whose token at position p of the stream has the id 10 + p."""
    num_tokens = sum(map(sum, documents))
    ids = iter(range(10, 10 + num_tokens))
    return make_corpus(
        "bert-en",
        [[[next(ids) for _ in range(size)] for size in document] for document in documents],
        vocab_size=10 + num_tokens,
        words=[int(position % word == 0) for position in range(num_tokens)],
    )


@pytest.mark.parametrize("length", [16, 64, 128, 512])
def test_a_sample_is_contiguous_text_of_one_document_around_a_sentence_border(length: int) -> None:
    random = np.random.default_rng(0)
    sizes = [random.integers(1, 50, size=random.integers(2, 40)).tolist() for _ in range(100)]
    starts = np.cumsum([0, *np.concatenate(sizes)])
    document_starts = np.cumsum([0, *map(sum, sizes)])
    samples = masked(serial_corpus(sizes), length)
    at_border = 0
    for index in range(300):
        first, second, n = parts(samples[index])
        text = np.array(first + second) - 10
        assert n <= length
        assert (np.diff(text) == 1).all()
        assert np.searchsorted(document_starts, text[0], "right") == np.searchsorted(
            document_starts, text[-1], "right"
        )
        at_border += int(second[0] - 10 in starts)
    assert at_border > 300 * (0.97 if length >= 128 else 0.2)


def test_masked_labels_restore_the_text() -> None:
    samples = masked(sentence_corpus(100))
    for index in range(200):
        sample = samples[index]
        hidden = sample["loss_mask"] > 0
        assert np.array_equal(np.where(hidden, sample["labels"], sample["tokens"]), sample["labels"])
        assert not np.isin(sample["labels"][hidden], list(SPECIAL.ids())).any()
        assert sample["attention_mask"][hidden].all()
        changed = sample["tokens"] != sample["labels"]
        assert not changed[~hidden].any()
        assert set(sample["tokens"][changed].tolist()).isdisjoint({SPECIAL.cls, SPECIAL.sep, SPECIAL.pad})


def test_segments_are_swapped_in_half_of_the_samples_and_the_label_says_so() -> None:
    samples = masked(serial_corpus([[9, 7, 12, 5]] * 40))
    swapped = 0
    for index in range(2000):
        sample = samples[index]
        a_end = int(sample["token_types"].argmax()) - 1
        in_order = sample["labels"][1] < sample["labels"][a_end + 1]
        assert bool(sample["sentence_order"]) is not bool(in_order)
        swapped += int(sample["sentence_order"])
    assert stats.binomtest(swapped, 2000, 0.5).pvalue > 1e-3


def test_separate_segments_are_two_sequences_and_never_swapped() -> None:
    samples = MaskedSamples(
        serial_corpus([[9, 7, 12, 5]] * 40), "train", sequence_length=32, seed=1, separate_segments=True
    )
    for index in range(500):
        sample = samples[index]
        labels, n = sample["labels"].tolist(), int(sample["attention_mask"].sum())
        start = int(sample["token_types"].argmax())
        assert "sentence_order" not in sample and n <= 32
        assert sample["token_types"].tolist() == [0] * start + [1] * (n - start) + [0] * (32 - n)
        assert labels[0] == labels[start] == SPECIAL.cls and labels[start - 1] == labels[n - 1] == SPECIAL.sep
        text = labels[1 : start - 1] + labels[start + 1 : n - 1]
        assert text == list(range(text[0], text[0] + len(text))) and 1 < start - 1 < len(text) + 1
        chosen = sample["loss_mask"] > 0
        assert chosen.any() and not np.isin(sample["labels"][chosen], list(SPECIAL.ids())).any()
        assert np.array_equal(np.where(chosen, sample["labels"], sample["tokens"]), sample["labels"])


def test_a_tenth_of_the_samples_is_short_with_lengths_spread_evenly() -> None:
    samples = masked(serial_corpus([[10] * 50] * 20), 64)  # spans of 55 to 61 tokens
    lengths = np.array([parts(samples[index]).num_tokens - 3 for index in range(6000)])
    full = np.array([samples._spans.span(n, 0) for n in range(len(samples))])
    shortest = int((full[:, 2] - full[:, 0]).min())
    # Lengths are drawn from 2..61, so that 0.1 * (L - 2) / 60 of the samples are shorter than L.
    share = 0.1 * (shortest - 2) / 60
    short = lengths[lengths < shortest]
    assert stats.binomtest(len(short), 6000, share).pvalue > 1e-3
    assert stats.chisquare(np.bincount(short - 2, minlength=shortest - 2)).pvalue > 1e-3


def test_chinese_words_of_several_characters_are_masked_whole() -> None:
    corpus = serial_corpus([[30, 24, 36, 18, 12]] * 20, word=3)
    samples = masked(corpus)
    whole = 0
    for index in range(300):
        sample = samples[index]
        chosen = set((sample["labels"][sample["loss_mask"] > 0] - 10).tolist())
        present = set((sample["labels"] - 10).tolist())
        for position in chosen:
            word = {position - position % 3 + k for k in range(3)} & present
            if len(present) > 60:  # short texts may hold no whole word
                assert word <= chosen
                whole += len(word) == 3
    assert whole > 1000


def test_a_half_that_begins_within_a_word_can_be_masked_from_its_first_token() -> None:
    samples = masked(serial_corpus([[400, 3]], word=1000), 64)  # each half is one piece of one word
    for index in range(100):
        sample = samples[index]
        chosen = np.flatnonzero(sample["loss_mask"])
        a_end = int(sample["token_types"].argmax()) - 1
        assert chosen[0] in (1, a_end + 1)


def test_another_share_is_masked_where_one_is_asked_for() -> None:
    samples = MaskedSamples(sentence_corpus(200), "train", sequence_length=512, seed=7, masked_share=0.4)
    chosen = total = 0
    for index in range(200):
        sample = samples[index]
        total += int(sample["attention_mask"].sum()) - 3
        chosen += int(sample["loss_mask"].sum())
    assert chosen / total == pytest.approx(0.4, abs=0.003)


def test_overall_shares_are_15_percent_and_80_10_10() -> None:
    samples = masked(sentence_corpus(200), 512)
    total = chosen = hidden = kept = 0
    for index in range(600):
        sample = samples[index]
        on = sample["loss_mask"] > 0
        total += int(sample["attention_mask"].sum()) - 3
        chosen += int(on.sum())
        hidden += int((sample["tokens"][on] == SPECIAL.mask).sum())
        kept += int((sample["tokens"][on] == sample["labels"][on]).sum())
    assert chosen / total == pytest.approx(0.15, abs=0.001)
    counts = [hidden, kept, chosen - hidden - kept]
    same = 0.1 / 1019  # a random token may be the original
    assert stats.chisquare(counts, np.array([0.8, 0.1 + same, 0.1 - same]) * chosen).pvalue > 1e-3


def test_validation_has_the_same_masks_in_every_epoch_and_training_has_not() -> None:
    corpus = sentence_corpus(20)
    fixed, fresh = masked(corpus, split="validation"), masked(corpus)
    n = len(fixed)
    assert all(np.array_equal(fixed[i]["tokens"], fixed[i + 3 * n]["tokens"]) for i in range(n))
    assert not all(np.array_equal(fresh[i]["tokens"], fresh[i + n]["tokens"]) for i in range(n))


def test_an_epoch_visits_every_token_of_usable_documents_but_what_short_samples_leave() -> None:
    corpus = serial_corpus([[20] * 40, [7], [5, 300, 9], [30, 31]])
    samples = masked(corpus)
    seen: set[int] = set()
    for index in range(20 * len(samples)):
        first, second, _ = parts(samples[index])
        seen |= {id_ - 10 for id_ in first + second}
    assert seen == set(range(800)) | set(range(807, 807 + 314 + 61))


def test_a_corpus_without_two_sentences_in_any_document_is_refused() -> None:
    with pytest.raises(UsageError, match="a document of two sentences, and none of its 3 has two"):
        masked(serial_corpus([[30], [500], [4]]))


def test_a_corpus_without_word_marks_is_refused() -> None:
    corpus = sentence_corpus(3)
    with pytest.raises(DamagedError, match=r"no train\.words\.bin"):
        masked(MemoryCorpus(corpus.tokenizer, corpus.data, None))


def test_sequences_too_short_for_two_segments_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 16"):
        masked(sentence_corpus(3), 15)
