from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fpm_cli.errors import UsageError
from fpm_cli.objectives.base import Sample
from fpm_cli.objectives.span import SpanSamples, corrupted_lengths, longest_segment, random_segments
from tests.objectives.memory_corpus import SPECIALS, MemoryCorpus, stream_corpus

SPECIAL = SPECIALS["t5-zh"]
SENTINELS = set(SPECIAL.sentinels)
LENGTHS = [(512, 256), (128, 64), (64, 64), (128, 20), (33, 12), (2, 3)]


def span(corpus: MemoryCorpus, encoder: int, decoder: int, split: str = "train") -> SpanSamples:
    return SpanSamples(corpus, split, encoder_length=encoder, decoder_length=decoder, seed=1)


def runs(ids: list[int]) -> dict[int, list[int]]:
    """The tokens after each sentinel, written without the code under test; -1 stands for the head."""
    found: dict[int, list[int]] = {}
    key = -1
    for id_ in ids:
        if id_ in SENTINELS:
            key = id_
            assert key not in found
            found[key] = []
        else:
            found.setdefault(key, []).append(id_)
    return found


def restored(sample: Sample) -> list[int]:
    """The original segment, from encoder inputs and labels alone."""
    spans = runs(sample["labels"][sample["loss_mask"] > 0].tolist())
    text: list[int] = []
    for id_ in sample["encoder_tokens"][sample["encoder_mask"]].tolist():
        text += spans[id_] if id_ in SENTINELS else [id_]
    return text


@pytest.mark.parametrize(("encoder", "decoder"), LENGTHS)
def test_text_is_recoverable_from_inputs_and_labels(encoder: int, decoder: int) -> None:
    corpus = stream_corpus("t5-zh", 20_000)
    samples = span(corpus, encoder, decoder, "validation")
    raw = longest_segment(encoder, decoder, 190).num_raw
    assert len(samples) == 20_000 // raw
    for index in range(min(len(samples), 200)):
        expected = corpus.data.tokens[index * raw : (index + 1) * raw].tolist()
        assert restored(samples[index]) == expected


@pytest.mark.parametrize(("encoder", "decoder"), LENGTHS)
def test_sentinels_come_in_order_and_the_target_ends_with_one_more(encoder: int, decoder: int) -> None:
    samples = span(stream_corpus("t5-zh", 20_000), encoder, decoder)
    for index in range(min(len(samples), 100)):
        sample = samples[index]
        inputs = [id_ for id_ in sample["encoder_tokens"].tolist() if id_ in SENTINELS]
        labels = sample["labels"][sample["loss_mask"] > 0].tolist()
        assert inputs == list(SPECIAL.sentinels[: len(inputs)])
        assert [id_ for id_ in labels if id_ in SENTINELS] == list(SPECIAL.sentinels[: len(inputs) + 1])
        assert labels[0] == SPECIAL.sentinels[0]
        assert labels[-1] == SPECIAL.sentinels[len(inputs)]
        text = sample["encoder_tokens"][sample["encoder_mask"]].tolist()
        assert text[0] not in SENTINELS  # starts with text, ends with noise
        assert text[-1] in SENTINELS


@pytest.mark.parametrize(("encoder", "decoder"), LENGTHS)
def test_decoder_reads_bos_and_its_labels_shifted_and_the_rest_is_padding(encoder: int, decoder: int) -> None:
    sample = span(stream_corpus("t5-zh", 20_000), encoder, decoder)[3]
    m = int(sample["loss_mask"].sum())
    assert sample["decoder_tokens"][0] == SPECIAL.bos
    assert np.array_equal(sample["decoder_tokens"][1:m], sample["labels"][: m - 1])
    assert sample["loss_mask"].tolist() == [1] * m + [0] * (decoder - m)
    assert set(sample["decoder_tokens"][m:].tolist()) <= {SPECIAL.pad}
    assert set(sample["labels"][m:].tolist()) <= {SPECIAL.pad}
    n = int(sample["encoder_mask"].sum())
    assert sample["encoder_mask"].tolist() == [True] * n + [False] * (encoder - n)
    assert set(sample["encoder_tokens"][n:].tolist()) <= {SPECIAL.pad}


def test_lengths_are_those_of_t5() -> None:
    # T5's `random_spans_helper(512, 0.15, 3, 1, 1)` gives 568 raw tokens and 114 target tokens; it counts
    # an EOS at the end of both, where CPM-2 has none in the inputs and a final sentinel in the target.
    assert corrupted_lengths(568).encoder + 1 == 512
    assert corrupted_lengths(568).decoder == 114
    assert longest_segment(511, 512, 190) == corrupted_lengths(568)


@given(st.integers(2, 700), st.integers(3, 400))
def test_the_longest_segment_fits_and_one_token_more_does_not(encoder: int, decoder: int) -> None:
    longest = longest_segment(encoder, decoder, 10_000)
    longer = corrupted_lengths(longest.num_raw + 1)
    assert longest.encoder <= encoder
    assert longest.decoder <= decoder
    assert longer.encoder > encoder or longer.decoder > decoder


@given(st.integers(2, 5000))
def test_numbers_of_noise_tokens_and_spans_follow_density_and_mean_length(raw: int) -> None:
    lengths = corrupted_lengths(raw)
    assert abs(lengths.num_noise - 0.15 * raw) <= 0.5 or lengths.num_noise == 1
    assert abs(lengths.num_spans - lengths.num_noise / 3) <= 0.5 or lengths.num_spans == 1
    assert 1 <= lengths.num_spans <= min(lengths.num_noise, raw - lengths.num_noise)


def test_noise_density_and_span_lengths_of_samples() -> None:
    samples = span(stream_corpus("t5-zh", 200_000), 512, 256)
    spans = [runs(samples[i]["labels"][samples[i]["loss_mask"] > 0].tolist()) for i in range(200)]
    lengths = [len(tokens) for found in spans for key, tokens in list(found.items())[:-1]]
    assert all(len(found) == 28 + 1 for found in spans)
    assert sum(lengths) / (200 * 569) == pytest.approx(0.15, abs=0.001)
    assert np.mean(lengths) == pytest.approx(3, abs=0.05)
    # Of the C(84, 27) divisions of 85 into 28 parts, C(84 - k, 26) begin with a part of k.
    expected = np.array([comb(84 - k, 26) / comb(84, 27) for k in range(1, 6)])
    first = [len(next(iter(found.values()))) for found in spans]
    observed = np.bincount(np.minimum(first, 6), minlength=7)[1:]
    assert stats.chisquare(observed, np.append(expected, 1 - expected.sum()) * len(first)).pvalue > 1e-3


def test_every_division_into_segments_is_as_likely() -> None:
    random = np.random.default_rng(0)
    drawn = [tuple(random_segments(7, 3, random)) for _ in range(6000)]
    possible, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(possible) == len(list(combinations(range(6), 2)))
    assert (possible.sum(axis=1) == 7).all()
    assert (possible >= 1).all()
    assert stats.chisquare(counts).pvalue > 1e-3


def test_tokens_away_from_the_ends_are_masked_equally_often() -> None:
    samples = span(stream_corpus("t5-zh", 143), 128, 64)  # one segment, with new noise in each epoch
    noise = np.zeros(142)
    for epoch in range(2000):
        position = 0
        sample = samples[epoch]
        spans = runs(sample["labels"][sample["loss_mask"] > 0].tolist())
        for id_ in sample["encoder_tokens"][sample["encoder_mask"]].tolist():
            width = len(spans[id_]) if id_ in SENTINELS else 1
            noise[position : position + width] += id_ in SENTINELS
            position += width
    assert noise[0] == 0  # T5 starts with text and ends with noise
    assert noise[-1] == 2000
    assert noise.sum() / 2000 == 21  # 15 % of 142
    middle = noise[30:110] / 2000
    assert 0.11 < middle.min() < middle.max() < 0.16


def test_more_spans_than_sentinels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"take 229 sentinels, and the tokenizer has 190"):
        longest_segment(4096, 2048, 190)
    assert longest_segment(4096, 2048, 229).num_spans == 228
    with pytest.raises(UsageError, match="tokenizer has 190"):
        span(stream_corpus("t5-zh", 20_000), 4096, 2048)


def test_lengths_that_hold_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.decoder_length >= 3; they are 64 and 2"):
        span(stream_corpus("t5-zh", 20_000), 64, 2)
