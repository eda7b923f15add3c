"""A character tokenizer that needs no training, so that these tests stand on the corpus alone."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import pytest

from fpm_cli.tokenization.base import SpecialTokens, Tokenizer


class CharacterTokenizer(Tokenizer):
    """An id a character (modulo the vocabulary); a word begins after a blank and at a Chinese character."""

    vocab_size = 1000

    def __init__(self, kind: Any = "gpt-en") -> None:
        self.kind = kind
        self.special = SpecialTokens(eod=None if kind.startswith("bert") else 0)

    def encode(self, text: str) -> list[int]:
        return [ord(character) % 900 + 1 for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(map(chr, ids))

    def normalise(self, text: str) -> str:
        return text

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return list(map(str, ids))

    def word_starts(self, text: str) -> list[bool]:
        return [not i or text[i - 1] == " " or text[i] > "\u3000" for i in range(len(text))]

    def model_files(self) -> dict[str, bytes]:
        return {"model": b"characters"}

    def options(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_files(cls, kind: Any, files: Mapping[str, bytes], options: Mapping[str, Any]) -> Self:
        return cls(kind)


@pytest.fixture
def gpt() -> CharacterTokenizer:
    return CharacterTokenizer("gpt-en")


@pytest.fixture
def bert() -> CharacterTokenizer:
    return CharacterTokenizer("bert-zh")
