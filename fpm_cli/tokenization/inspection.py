"""The tokens of a text, and statistics that show how well a tokenizer fits a corpus."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fpm_cli.tokenization.base import Tokenizer


@dataclass(frozen=True)
class Piece:
    """One token of a text: its id, its piece, and the characters from `begin` to `end` that it represents."""

    id: int
    piece: str
    begin: int
    end: int
    text: str
    word_start: bool


@dataclass
class EncodingStatistics:
    """Counts over texts. `exact`, `normalised` and `changed` sort the texts by what decoding gives back:

    the text itself, its stated normalisation, or something else (unknown characters).
    """

    texts: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    unknown: int = 0
    exact: int = 0
    normalised: int = 0
    changed: int = 0

    def document(self) -> dict[str, Any]:
        """The counts and the rates that follow from them; a rate over nothing is 0."""
        return {
            **asdict(self),
            "tokens_per_character": self.tokens / max(1, self.characters),
            "bytes_per_token": self.bytes / max(1, self.tokens),
            "unknown_rate": self.unknown / max(1, self.tokens),
        }


def token_table(tokenizer: Tokenizer, text: str) -> list[Piece]:
    """Each token of `text` with the characters it represents."""
    ids = tokenizer.encode(text)
    rows = zip(ids, tokenizer.tokens(ids), tokenizer.offsets(text), tokenizer.word_starts(text), strict=True)
    return [Piece(i, piece, begin, end, text[begin:end], start) for i, piece, (begin, end), start in rows]


def encoding_statistics(tokenizer: Tokenizer, texts: Iterable[str]) -> EncodingStatistics:
    """Encode and decode every text and count."""
    rates = EncodingStatistics()
    for text in texts:
        ids = tokenizer.encode(text)
        decoded = tokenizer.decode(ids)
        rates.texts += 1
        rates.characters += len(text)
        rates.bytes += len(text.encode())
        rates.tokens += len(ids)
        rates.unknown += ids.count(tokenizer.special.unk) if tokenizer.special.unk is not None else 0
        if decoded == text:
            rates.exact += 1
        elif decoded == tokenizer.normalise(text):
            rates.normalised += 1
        else:
            rates.changed += 1
    return rates
