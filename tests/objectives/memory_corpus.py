"""A corpus in memory with the attributes that objectives use, so that their tests need no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.tokenization.base import SpecialTokens

SPECIALS = {
    "gpt-en": SpecialTokens(unk=0, bos=1, eos=2, pad=5, mask=6, eod=7),
    "bert-en": SpecialTokens(pad=0, unk=1, cls=2, sep=3, mask=4),
    "t5-zh": SpecialTokens(unk=0, bos=1, eos=2, pad=5, mask=6, eod=7, sentinels=tuple(range(834, 1024))),
}


@dataclass(frozen=True)
class MemoryTokenizer:
    kind: str
    vocab_size: int
    special: SpecialTokens


class MemorySplit:
    """Documents of sequences, laid out as `IndexedDataset` lays them out."""

    def __init__(self, documents: Sequence[Sequence[Sequence[int]]], dtype: Any = np.uint16) -> None:
        sequences = [sequence for document in documents for sequence in document]
        self.sizes = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
        self.tokens = np.array([token for sequence in sequences for token in sequence], dtype=dtype)
        self.pointers = (np.cumsum(self.sizes, dtype=np.int64) - self.sizes) * self.tokens.itemsize
        self.document_index = np.cumsum([0, *map(len, documents)], dtype=np.int64)
        self.num_tokens = len(self.tokens)


@dataclass(frozen=True)
class MemoryCorpus:
    tokenizer: MemoryTokenizer
    data: MemorySplit
    words: npt.NDArray[np.uint8] | None = None

    def split(self, name: str) -> MemorySplit:
        return self.data

    def word_starts(self, name: str) -> npt.NDArray[np.uint8] | None:
        return self.words


def make_corpus(
    kind: str,
    documents: Sequence[Sequence[Sequence[int]]],
    *,
    vocab_size: int = 1024,
    words: Sequence[int] | None = None,
) -> MemoryCorpus:
    """A corpus of `kind`; `words` marks where whole words begin (default: with every token)."""
    data = MemorySplit(documents)
    marks = np.ones(data.num_tokens) if words is None else np.array(words)
    starts = marks.astype(np.uint8) if kind.startswith("bert") else None
    return MemoryCorpus(MemoryTokenizer(kind, vocab_size, SPECIALS[kind]), data, starts)


def stream_corpus(kind: str, num_tokens: int) -> MemoryCorpus:
    """Documents of 1 to 400 ordinary ids and `<eod>`, cut to `num_tokens`."""
    random = np.random.default_rng(0)
    tokens = random.integers(8, 800, size=num_tokens)
    tokens[np.cumsum(random.integers(2, 400, size=num_tokens)) % num_tokens] = SPECIALS[kind].eod
    return make_corpus(kind, [[tokens.tolist()]])


def sentence_corpus(
    num_documents: int, seed: int = 0, sentence: int = 25, document: int = 40
) -> MemoryCorpus:
    """Documents of 1 to `document` sentences of 1 to 2 * `sentence` ids 8..1023, words of 1.4 tokens."""
    random = np.random.default_rng(seed)
    documents = [
        [
            random.integers(8, 1024, size=random.integers(1, 2 * sentence)).tolist()
            for _ in range(random.integers(1, document + 1))
        ]
        for _ in range(num_documents)
    ]
    corpus = make_corpus("bert-en", documents)
    words = (random.random(corpus.data.num_tokens) < 0.7).astype(np.uint8)
    words[corpus.data.pointers // corpus.data.tokens.itemsize] = 1
    return MemoryCorpus(corpus.tokenizer, corpus.data, words)


PRESETS = {"gpt": "EPM-X-M", "bert": "BERT-X-EN-M", "encdec": "CPM-2-X-S"}


def proxy(family: str) -> RunConfig:
    """A proxy with the vocabulary of these corpora and lengths that the tests state."""
    lengths = ["model.vocab_size=1024", "train.sequence_length=128"]
    if family != "encdec":
        lengths.append("model.max_positions=128")
    if family == "encdec":
        lengths.append("train.decoder_length=64")
    return resolve(PRESETS[family], proxy=True, environment={}, assignments=lengths).config
