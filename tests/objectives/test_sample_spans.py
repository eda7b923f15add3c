import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpm_cli.objectives.sample_spans import SampleSpan, SampleSpans
from tests.objectives.memory_corpus import MemorySplit, sentence_corpus

SENTENCES = st.lists(st.integers(1, 60), min_size=0, max_size=30)


def split_of(documents: list[list[int]], dtype: type = np.uint16) -> MemorySplit:
    return MemorySplit([[[8] * size for size in document] for document in documents], dtype)


def bounds(document: list[int], start: int) -> set[int]:
    return {start + int(end) for end in np.cumsum([0, *document])}


@given(
    st.lists(SENTENCES, min_size=1, max_size=8), st.integers(13, 200), st.sampled_from([np.uint16, np.int32])
)
def test_spans_tile_each_document_of_two_sentences_exactly(
    documents: list[list[int]], target: int, dtype: type
) -> None:
    spans = SampleSpans(split_of(documents, dtype), target)
    number = offset = 0
    for document in documents:
        size = sum(document)
        count = -(-size // target) if len(document) >= 2 else 0
        pieces = [spans.span(number + k, 0.5) for k in range(count)]
        if pieces:
            edges = [pieces[0].start, *(piece.end for piece in pieces)]
            assert [piece.start for piece in pieces] == edges[:-1]
            assert (edges[0], edges[-1]) == (offset, offset + size)
        number, offset = number + count, offset + size
    assert len(spans) == number


@given(st.lists(SENTENCES, min_size=1, max_size=8), st.integers(13, 200), st.floats(0, 1, exclude_max=True))
def test_spans_are_split_at_a_sentence_whenever_one_begins_inside(
    documents: list[list[int]], target: int, cut: float
) -> None:
    spans = SampleSpans(split_of(documents), target)
    offset, borders = 0, set()
    for document in documents:
        borders |= bounds(document, offset)
        offset += sum(document)
    for number in range(len(spans)):
        start, middle, end = spans.span(number, cut)
        assert start < middle < end
        assert end - start >= 2
        assert end - start <= 1.5 * target + 1
        assert middle in borders or not borders & set(range(start + 1, end))


def test_each_sentence_inside_is_chosen_as_often() -> None:
    spans = SampleSpans(split_of([[10, 20, 5, 8]]), 100)
    middles = [spans.span(0, cut).middle for cut in (np.arange(300) + 0.5) / 300]
    assert np.unique(middles, return_counts=True)[0].tolist() == [10, 30, 35]
    assert np.unique(middles, return_counts=True)[1].tolist() == [100, 100, 100]


def test_borders_of_long_documents_lie_at_sentences_unless_one_is_very_long() -> None:
    data = sentence_corpus(50, document=200).data
    spans = SampleSpans(data, 509)
    borders = {*(data.pointers // data.tokens.itemsize).tolist(), data.num_tokens}
    for number in range(len(spans)):
        start, _, end = spans.span(number, 0)
        assert {start, end} <= borders
    long = SampleSpans(split_of([[1000, 5]]), 100)
    assert [long.span(k, 0.5)[::2] for k in range(3)] == [(0, 91), (91, 182), (182, 274)]


@pytest.mark.parametrize("documents", [[], [[]], [[5]], [[300], [], [7]]])
def test_documents_of_less_than_two_sentences_are_left_out(documents: list[list[int]]) -> None:
    assert len(SampleSpans(split_of(documents), 50)) == 0


def test_empty_documents_do_not_shift_the_others() -> None:
    spans = SampleSpans(split_of([[], [5, 6], [], [9], [4, 4, 4], []]), 50)
    assert [spans.span(k, 0) for k in range(len(spans))] == [SampleSpan(0, 5, 11), SampleSpan(20, 24, 32)]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 300))
def test_truncation_takes_from_the_longer_segment_at_the_outer_end(
    first: int, second: int, length: int
) -> None:
    truncated = SampleSpan(1000 - first, 1000, 1000 + second).truncated(length)
    a, b = first, second
    while a + b > length:  # Megatron-LM's rule, one token at a time
        if a > b:
            a -= 1
        else:
            b -= 1
    assert truncated == SampleSpan(1000 - a, 1000, 1000 + b)
    assert min(a, b) >= 1
