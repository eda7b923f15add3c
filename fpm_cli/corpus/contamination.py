"""Finds evaluation texts in documents, and which of them are there: 13-grams of long ones, whole short ones.

As Brown et al. 2020 (appendix C) do: n-grams of 13 tokens, or of all tokens of a text that has 8 to 12. A
text of fewer is found where it is a line of the document. A token is a Chinese character, or a run of other
letters and digits, after NFKC and case folding: spaces between Chinese characters, punctuation and
full-width forms make no difference.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from fpm_cli.files import atomic_write

MAX_NGRAM, MIN_NGRAM = 13, 8  # tokens
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(f"[{_HAN}]|[^\\W_{_HAN}]+")
_BASE = 0x9E3779B97F4A7C15  # odd: of the polynomial that hashes n tokens, modulo 2**64

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class EvaluationIndex:
    """Hashes of evaluation texts: of their n-grams by n (sorted), and of the shortest ones as lines."""

    ngrams: dict[int, Hashes]
    lines: Hashes

    @classmethod
    def of(cls, texts: Iterable[str]) -> "EvaluationIndex":
        """The index of the texts of evaluation rows."""
        ngrams: dict[int, set[int]] = {}
        lines: set[int] = set()
        for text in texts:
            size, hashes = _text_hashes(text)
            (ngrams.setdefault(size, set()) if size else lines).update(hashes)
        return cls({size: _sorted(hashes) for size, hashes in sorted(ngrams.items())}, _sorted(lines))

    @property
    def fingerprint(self) -> str:
        """A hash of the whole index, in hex."""
        digest = xxhash.xxh3_128()
        for size, hashes in (*self.ngrams.items(), (0, self.lines)):
            digest.update(size.to_bytes(8, "little") + len(hashes).to_bytes(8, "little") + hashes.tobytes())
        return str(digest.hexdigest())

    def is_in(self, document: str) -> bool:
        """Whether the document has an n-gram of an evaluation text, or one of the short ones as a line."""
        return any(len(hashes) for _, hashes in self.hits(document))

    def hits(self, document: str) -> Iterator[tuple[int, Hashes]]:
        """The size and the known hashes of the n-grams in a document; size 0 stands for lines."""
        tokens = token_hashes(document)
        for size, known in self.ngrams.items():
            if len(tokens) >= size:
                yield size, _known(_ngram_hashes(tokens, size), known)
        if len(self.lines):
            lines = (token_hashes(line) for line in document.split("\n"))
            hashes = [_line_hash(line) for line in lines if 0 < len(line) < MIN_NGRAM]
            yield 0, _known(np.array(hashes, np.uint64), self.lines)

    def write(self, path: Path) -> None:
        """Write the index to a file."""
        hashes = [*self.ngrams.values(), self.lines]
        with atomic_write(path) as file:
            np.savez(
                file,
                sizes=np.array(list(self.ngrams), np.int64),
                ends=np.cumsum([len(some) for some in hashes]),
                hashes=np.concatenate(hashes),
            )

    @classmethod
    def read(cls, path: Path) -> "EvaluationIndex":
        """The index that `write` wrote."""
        with np.load(path) as arrays:
            *ngrams, lines, _ = np.split(arrays["hashes"], arrays["ends"])
            return cls(dict(zip(arrays["sizes"].tolist(), ngrams, strict=True)), lines)


class OverlapSearch:
    """Which of many texts are in the documents that are added one after another.

    A text may have several variants, such as before and after a tokenizer; any of them counts. A text is
    found if a document has one of its n-grams, or, of a short one, the text as a line. It is found whole if
    one document has all of its n-grams.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """Index the variants of each text."""
        self.is_found = np.zeros(len(texts), bool)
        self.is_whole = np.zeros(len(texts), bool)
        self._owner: list[int] = []  # by variant, its text
        self._num_hashes: list[int] = []  # by variant
        self._variants: dict[tuple[int, int], list[int]] = {}  # by size and hash, the variants that have it
        for index, variants in enumerate(texts):
            for variant in dict.fromkeys(variants):
                size, hashes = _text_hashes(variant)
                for value in hashes:
                    self._variants.setdefault((size, value), []).append(len(self._owner))
                self._owner.append(index)
                self._num_hashes.append(len(hashes))
        self._index = EvaluationIndex.of(variant for variants in texts for variant in variants)

    def add(self, document: str) -> None:
        """Look for every text in one more document."""
        counts: Counter[int] = Counter()
        for size, hashes in self._index.hits(document):
            for value in set(hashes.tolist()):
                counts.update(self._variants[size, value])
        for variant, count in counts.items():
            self.is_found[self._owner[variant]] = True
            self.is_whole[self._owner[variant]] |= count == self._num_hashes[variant]


def token_hashes(text: str) -> Hashes:
    """A 64-bit hash of each token of a text (tokens,)."""
    tokens = _tokens(text)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, tokens), np.uint64)


def _tokens(text: str) -> Iterator[bytes]:
    normal = unicodedata.normalize("NFKC", text).casefold()
    return (token.encode(errors="surrogatepass") for token in _TOKEN.findall(normal))


def _ngram_hashes(tokens: Hashes, size: int) -> Hashes:
    """The hash of every `size` tokens in a row (tokens - size + 1,)."""
    count = len(tokens) - size + 1
    hashes = np.zeros(count, np.uint64)
    for place in range(size):
        hashes *= np.uint64(_BASE)
        hashes += tokens[place : place + count]
    return hashes


def _text_hashes(text: str) -> tuple[int, set[int]]:
    """By what a text is found: the size and hashes of its n-grams, or 0 and its hash as a line."""
    tokens = token_hashes(text)
    if len(tokens) >= MIN_NGRAM:
        size = min(len(tokens), MAX_NGRAM)
        return size, set(_ngram_hashes(tokens, size).tolist())
    return 0, {_line_hash(tokens)} if len(tokens) else set()


def _line_hash(tokens: Hashes) -> int:
    return int(_ngram_hashes(tokens, len(tokens))[0])


def _known(hashes: Hashes, known: Hashes) -> Hashes:
    """The hashes that are among the sorted `known`, which has at least one."""
    places = np.searchsorted(known, hashes)
    places[places == len(known)] = 0
    matches: Hashes = hashes[known[places] == hashes]
    return matches


def _sorted(hashes: set[int]) -> Hashes:
    return np.sort(np.fromiter(hashes, np.uint64, len(hashes)))
