"""Where the samples of the masked objective lie in the text: spans of whole sentences, found by bisection.

Megatron-LM iterates over all sentences to find its samples (megatron/data/helpers.cpp, `build_mapping`).
Here a document of D tokens has ceil(D / target) spans of equal size, whose ends then move to the nearest
sentence boundary. Only one array over documents is kept, and an epoch covers all text once.
"""

from typing import NamedTuple

import numpy as np

from fpm_cli.objectives.base import Ids, TokenSplit


class SampleSpan(NamedTuple):
    """Two adjacent segments of text, [start, middle) and [middle, end), as positions in the stream."""

    start: int
    middle: int
    end: int

    def truncated(self, length: int) -> "SampleSpan":
        """At most `length` >= 2 tokens: the longer segment is cut first, at the span's outer ends.

        Megatron-LM (megatron/data/dataset_utils.py, `truncate_segments`) removes as many tokens, but at
        both ends of each segment, after which the segments are no longer adjacent.
        """
        first, second = self.middle - self.start, self.end - self.middle
        first = min(first, max(length - second, (length + 1) // 2))
        second = min(second, length - first)
        return SampleSpan(self.middle - first, self.middle, self.middle + second)


class SampleSpans:
    """The spans of all documents with at least two sentences, each of about `target` tokens."""

    def __init__(self, data: TokenSplit, target: int) -> None:
        self._pointers, self._token_bytes = data.pointers, data.tokens.itemsize
        self._first_sentence = data.document_index  # (num_documents + 1,)
        self._starts = _document_starts(data)  # (num_documents + 1,) tokens
        sizes = np.diff(self._starts)
        usable = (np.diff(self._first_sentence) >= 2) & (sizes >= 2)
        counts = np.where(usable, -(-sizes // target), 0)
        self._first_span = np.concatenate([[0], np.cumsum(counts)])  # (num_documents + 1,)

    def __len__(self) -> int:
        return int(self._first_span[-1])

    def span(self, number: int, cut: float) -> SampleSpan:
        """Span `number`, split before one of the sentences that begin within it.

        Args:
            number: 0 <= number < len.
            cut: in [0, 1), selects the sentence. A span within one long sentence is split at a token.
        """
        document = int(self._first_span.searchsorted(number, side="right")) - 1
        first_span, next_span = self._first_span[document : document + 2].tolist()
        lower, upper = self._starts[document : document + 2].tolist()
        index, count, size = number - first_span, next_span - first_span, upper - lower
        sentences = self._pointers[self._first_sentence[document] : self._first_sentence[document + 1]]
        # Ends move by at most a quarter of a span, so that no span shrinks below half its size.
        max_shift = size // count // 4
        start = self._nearest_boundary(sentences, lower + size * index // count, upper, max_shift)
        end = self._nearest_boundary(sentences, lower + size * (index + 1) // count, upper, max_shift)

        inner = int(sentences.searchsorted(start * self._token_bytes, side="right"))
        num_inner = int(sentences.searchsorted(end * self._token_bytes)) - inner
        if num_inner > 0:
            middle = int(sentences[inner + int(cut * num_inner)]) // self._token_bytes
        else:
            middle = start + 1 + int(cut * (end - start - 1))
        return SampleSpan(start, middle, end)

    def _nearest_boundary(self, sentences: Ids, position: int, upper: int, max_shift: int) -> int:
        """The sentence start, or `upper`, nearest to `position` within `max_shift`; else `position`."""
        after = int(sentences.searchsorted(position * self._token_bytes))
        neighbours = sentences[max(after - 1, 0) : after + 1].tolist()
        boundaries = [pointer // self._token_bytes for pointer in neighbours] + [upper]
        nearest = min(boundaries, key=lambda boundary: abs(boundary - position))
        return nearest if abs(nearest - position) <= max_shift else position


def _document_starts(data: TokenSplit) -> Ids:
    """The token at which each document starts, then the number of tokens (num_documents + 1,)."""
    starts = np.full(len(data.document_index), data.num_tokens, dtype=np.int64)
    inside = data.document_index < len(data.pointers)  # documents at the end may be empty
    starts[inside] = data.pointers[data.document_index[inside]] // data.tokens.itemsize
    return starts
