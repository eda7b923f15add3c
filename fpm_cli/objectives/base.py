"""What every objective shares: the corpus as it reads it, `Samples`, and counter-based random numbers.

Sample i of the train split is number i % n of epoch i // n; each epoch has its own order, and each i its own
random numbers. The validation split is the same in every epoch: sample i is sample i % n, in the order of the
text. No state is kept between samples, so that every rank and every resumed run builds the same sample for
the same index.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.manifest import Split
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.objectives.order import shuffled
from fpm_cli.tokenization.base import SpecialTokens

Sample = dict[str, npt.NDArray[Any]]
Ids = npt.NDArray[np.int64]

# Philox takes a key of two words: the seed, and the split, so that no two splits share a stream.
STREAMS: dict[Split, int] = {"train": 0, "validation": 1}


class SampleTokenizer(Protocol):
    """What objectives need of a `Tokenizer`."""

    @property
    def kind(self) -> str:
        """One of the six kinds."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    def special(self) -> SpecialTokens:
        """Ids of the special tokens."""


class TokenSplit(Protocol):
    """What objectives need of an `IndexedDataset`: sequences concatenated in one flat array."""

    @property
    def tokens(self) -> npt.NDArray[Any]:
        """All ids (num_tokens,)."""

    @property
    def num_tokens(self) -> int:
        """Length of `tokens`."""

    @property
    def pointers(self) -> npt.NDArray[np.int64]:
        """Where each sequence starts in `tokens`, in bytes (num_sequences,)."""

    @property
    def document_index(self) -> npt.NDArray[np.int64]:
        """The sequence at which each document starts, then their number (num_documents + 1,)."""


class SampleCorpus(Protocol):
    """What objectives need of a `Corpus`."""

    @property
    def tokenizer(self) -> SampleTokenizer:
        """The tokenizer that encoded the text."""

    def split(self, name: Split) -> TokenSplit:
        """The sequences of one split."""

    def word_starts(self, name: Split) -> npt.NDArray[np.uint8] | None:
        """1 where a whole word begins (num_tokens,); None unless it is a BERT corpus."""


def special_id(tokenizer: SampleTokenizer, name: str) -> int:
    """The id of a special token, for example `eod`.

    Raises:
        DamagedError: the tokenizer has none.
    """
    id_: int | None = getattr(tokenizer.special, name)
    if id_ is None:
        raise DamagedError(f"the corpus's {tokenizer.kind} tokenizer has no {name!r} token")
    return id_


def random_for(seed: int, split: Split, index: int) -> np.random.Generator:
    """The random numbers of sample `index`, independent of those of every other (seed, split, index).

    Philox is a keyed function of a counter (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
    SC 2011), so any counter can be reached directly. The index is the counter's top word: 2^192 draws each.
    """
    return np.random.Generator(np.random.Philox(key=[seed, STREAMS[split]], counter=[0, 0, 0, index]))


class Samples(ABC):
    """The samples of one split: `len` is one epoch, and any index >= 0 is valid."""

    def __init__(self, num_samples: int, seed: int, split: Split, requirement: str) -> None:
        """`requirement` says in the error what one sample needs.

        Raises:
            UsageError: the split is too small for a single sample.
        """
        if num_samples < 1:
            raise UsageError(f"the {split} split of the corpus is too small: one sample takes {requirement}")
        self._num_samples, self._seed, self._split = num_samples, seed, split

    @abstractmethod
    def build(self, position: int, index: int) -> Sample:
        """The sample at `position` in the text, 0 <= position < len, with the randomness of `index`."""

    def random(self, index: int) -> np.random.Generator:
        """The random numbers of sample `index`."""
        return random_for(self._seed, self._split, index)

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"sample {index}: the first is 0")
        epoch, number = divmod(index, self._num_samples)
        if self._split == "validation":
            return self.build(number, number)
        return self.build(shuffled(number, self._num_samples, self._seed, epoch), index)

    def __iter__(self) -> Iterator[Sample]:
        """One epoch."""
        return (self[index] for index in range(len(self)))
