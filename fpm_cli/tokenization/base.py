"""The interface that all six tokenizers implement."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.tokenization.accelerate import Ragged
from fpm_cli.tokenization.long_texts import MAX_CHARACTERS, split_long
from fpm_cli.tokenization.store import fingerprint_of, write_directory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens; None where a vocabulary has no such token.

    `sentinels` are the ids that stand for removed spans in span corruption, in order.
    """

    pad: int | None = None
    unk: int | None = None
    bos: int | None = None
    eos: int | None = None
    eod: int | None = None
    mask: int | None = None
    cls: int | None = None
    sep: int | None = None
    sentinels: tuple[int, ...] = ()

    def ids(self) -> frozenset[int]:
        """Every id that is special."""
        named = (self.pad, self.unk, self.bos, self.eos, self.eod, self.mask, self.cls, self.sep)
        return frozenset([i for i in named if i is not None] + list(self.sentinels))


class Tokenizer(ABC):
    """Text to ids and back. Immutable; every method may be called from several threads.

    `encode` never adds a special token, and the text of a special token inside the user's text
    (`<eod>`, `[MASK]`) is encoded as ordinary text, never as its id.

    A subclass defines how its model becomes bytes (`model_files`, `options`) and how it is rebuilt from
    them (`from_files`); storing, loading and the fingerprint follow from those.
    """

    kind: TokenizerKind
    vocab_size: int
    special: SpecialTokens
    # Why a Hugging Face tokenizer.json would not give the same ids; None where ours is one.
    hf_inexact: str | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Raises UsageError on a lone surrogate, which no UTF-8 text contains."""
        return [i for part in self.split_long(text) for i in self._encode(part)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, in order; faster in bulk where a library allows it."""
        if max(map(len, texts), default=0) > MAX_CHARACTERS:
            return [self.encode(text) for text in texts]
        return self._encode_batch(texts)

    def encode_ragged(self, texts: Sequence[str]) -> Ragged:
        """`encode_batch` into two numpy arrays, the fastest form to write to a file."""
        if max(map(len, texts), default=0) <= MAX_CHARACTERS:
            return self._encode_ragged(texts)
        import numpy as np

        encoded = [[self._encode_ragged([part]).ids for part in self.split_long(text)] for text in texts]
        lengths = [sum(map(len, parts)) for parts in encoded]
        return Ragged(np.concatenate(list(chain.from_iterable(encoded))), np.cumsum(lengths, dtype=np.int64))

    def split_long(self, text: str) -> list[str]:
        """The parts that are encoded one at a time: their ids, joined, are those of the text."""
        if len(text) <= MAX_CHARACTERS:
            return [text]
        check_text(text)  # here, so that an error names the place in the whole text
        return split_long(text)

    @abstractmethod
    def _encode(self, text: str) -> list[int]:
        """`encode` of a text of limited length."""

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_batch` of texts of limited length."""
        return [self._encode(text) for text in texts]

    def _encode_ragged(self, texts: Sequence[str]) -> Ragged:
        """`encode_ragged` of texts of limited length."""
        import numpy as np

        encoded = self._encode_batch(texts)
        ends = np.cumsum([len(ids) for ids in encoded], dtype=np.int64)
        total = int(ends[-1]) if encoded else 0
        return Ragged(np.fromiter(chain.from_iterable(encoded), np.int32, total), ends)

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; `decode(encode(text)) == normalise(text)` up to unknown characters."""

    @abstractmethod
    def normalise(self, text: str) -> str:
        """`text` without what this kind of tokenizer does not keep; the identity if reversible."""

    @abstractmethod
    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's piece behind each id."""

    def word_starts(self, text: str) -> list[bool]:
        """For each token of `encode(text)`, whether a whole word begins there."""
        return [start for part in self.split_long(text) for start in self._word_starts(part)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """For each token of `encode(text)`, the characters of `text` it represents: begin and end."""
        spans: list[tuple[int, int]] = []
        first = 0
        for part in self.split_long(text):
            spans += [(first + begin, first + end) for begin, end in self._offsets(part)]
            first += len(part)
        return spans

    @abstractmethod
    def _word_starts(self, text: str) -> list[bool]:
        """`word_starts` of a text of limited length."""

    @abstractmethod
    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """`offsets` of a text of limited length."""

    def word_starts_ragged(self, texts: Sequence[str], encoded: Ragged) -> "NDArray[np.bool_]":
        """`word_starts` of every text end to end, given `encode_ragged(texts)`."""
        import numpy as np

        flags = chain.from_iterable(self.word_starts(text) for text in texts)
        return np.fromiter(flags, np.bool_, len(encoded.ids))

    @abstractmethod
    def model_files(self) -> dict[str, bytes]:
        """The model as files, name to content."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What besides the model decides the ids, as JSON."""

    @classmethod
    @abstractmethod
    def from_files(cls, kind: TokenizerKind, files: Mapping[str, bytes], options: Mapping[str, Any]) -> Self:
        """The tokenizer that `model_files` and `options` describe; ValueError if they do not."""

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of kind, options and model bytes: equal if and only if the ids are."""
        return fingerprint_of(self.kind, self.options(), self.model_files())

    def save(self, directory: Path) -> None:
        """Write the tokenizer into a new directory, atomically."""
        write_directory(
            directory,
            kind=self.kind,
            vocab_size=self.vocab_size,
            options=self.options(),
            files=self.model_files(),
            hf_inexact=self.hf_inexact,
        )


def check_text(text: str) -> None:
    """Refuse a lone surrogate: it has no UTF-8 bytes, hence no ids and no way back."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise UsageError(
            f"text has a lone surrogate, U+{code:04X}, at character {error.start}; "
            "read the text as UTF-8 (for example with --errors replace)"
        ) from None


def check_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """The ids as a list; DamagedError on one that the vocabulary does not have."""
    checked = [int(i) for i in ids]
    for position, i in enumerate(checked):
        if not 0 <= i < vocab_size:
            raise DamagedError(
                f"id {i} at position {position} is outside the vocabulary of {vocab_size:,}; "
                "these ids come from another tokenizer"
            )
    return checked
