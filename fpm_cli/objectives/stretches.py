"""Where masked samples lie: documents of sentences, divided into stretches found by bisection.

Megatron-LM walks through all sentences to find its samples (megatron/data/helpers.cpp, `build_mapping`).
Here a document of D tokens has ceil(D / target) stretches of equal size, whose borders then move to the
nearest sentence: one array over documents is all that is kept, and an epoch visits all text once.
"""

from typing import NamedTuple

import numpy as np

from fpm_cli.objectives.base import Ids, TokenSplit


class Halves(NamedTuple):
    """Two adjacent pieces of text, [start, middle) and [middle, end), as positions in the stream."""

    start: int
    middle: int
    end: int

    def trimmed(self, length: int) -> "Halves":
        """At most `length` >= 2 tokens: the longer half gives way first, at the outer ends.

        Megatron-LM (megatron/data/dataset_utils.py, `truncate_segments`) trims the same amounts, but at
        both ends of each half, which tears the halves apart.
        """
        first, second = self.middle - self.start, self.end - self.middle
        first = min(first, max(length - second, (length + 1) // 2))
        second = min(second, length - first)
        return Halves(self.middle - first, self.middle, self.middle + second)


class Stretches:
    """The stretches of all documents with at least two sentences, each of about `target` tokens."""

    def __init__(self, data: TokenSplit, target: int) -> None:
        self._pointers, self._token_bytes = data.pointers, data.tokens.itemsize
        self._first_sentence = data.document_index  # (num_documents + 1,)
        self._starts = _document_starts(data)  # (num_documents + 1,) tokens
        sizes = np.diff(self._starts)
        usable = (np.diff(self._first_sentence) >= 2) & (sizes >= 2)
        counts = np.where(usable, -(-sizes // target), 0)
        self._first_stretch = np.concatenate([[0], np.cumsum(counts)])  # (num_documents + 1,)

    def __len__(self) -> int:
        return int(self._first_stretch[-1])

    def halves(self, number: int, cut: float) -> Halves:
        """Stretch `number`, parted at one of the sentences that begin within it: `cut` in [0, 1) says
        which. A stretch within one over-long sentence is parted at one of its tokens.
        """
        document = int(self._first_stretch.searchsorted(number, side="right")) - 1
        first_stretch, next_stretch = self._first_stretch[document : document + 2].tolist()
        lower, upper = self._starts[document : document + 2].tolist()
        place, count, size = number - first_stretch, next_stretch - first_stretch, upper - lower
        sentences = self._pointers[self._first_sentence[document] : self._first_sentence[document + 1]]
        # With a reach of a quarter of a stretch, none shrinks below half its size.
        reach = size // count // 4
        start = self._nearest_border(sentences, lower + size * place // count, upper, reach)
        end = self._nearest_border(sentences, lower + size * (place + 1) // count, upper, reach)

        inner = int(sentences.searchsorted(start * self._token_bytes, side="right"))
        num_inner = int(sentences.searchsorted(end * self._token_bytes)) - inner
        if num_inner > 0:
            middle = int(sentences[inner + int(cut * num_inner)]) // self._token_bytes
        else:
            middle = start + 1 + int(cut * (end - start - 1))
        return Halves(start, middle, end)

    def _nearest_border(self, sentences: Ids, position: int, upper: int, reach: int) -> int:
        """The start of a sentence, or `upper`, if within `reach` tokens of `position`; else `position`."""
        after = int(sentences.searchsorted(position * self._token_bytes))
        around = sentences[max(after - 1, 0) : after + 1].tolist()
        borders = [pointer // self._token_bytes for pointer in around] + [upper]
        nearest = min(borders, key=lambda border: abs(border - position))
        return nearest if abs(nearest - position) <= reach else position


def _document_starts(data: TokenSplit) -> Ids:
    """The token at which each document starts, then the number of tokens (num_documents + 1,)."""
    starts = np.full(len(data.document_index), data.num_tokens, dtype=np.int64)
    inside = data.document_index < len(data.pointers)  # documents at the end may be empty
    starts[inside] = data.pointers[data.document_index[inside]] // data.tokens.itemsize
    return starts
