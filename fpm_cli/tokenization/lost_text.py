"""What of a text its tokens do not determine: unknown characters, and those that normalisation changes.

A vocabulary that maps rare characters to `<unk>` has an easier text to predict. For bits per byte to compare
across vocabularies, what is lost must be paid for: `lost_bits` is the length of a code that restores the text
from its tokens.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any

from pydantic import Field

from fpm_cli.frozen import Frozen
from fpm_cli.tokenization.base import Tokenizer

UNICODE_CHARACTERS = 154_998  # assigned in Unicode 16.0 (unicode.org/versions/Unicode16.0.0)
_PIECE_CHARACTERS = 256  # a text is compared with its normal form piece by piece


class LostText(Frozen):
    """Characters and UTF-8 bytes that the tokens do not determine, and the number of unknown tokens.

    An unknown token may stand for several characters. A changed character is one that normalisation replaces
    by another one (`substitutions`), or rewrites otherwise: deletes, merges or expands. An unknown character
    counts as unknown only.

    `substitutions[normal][original]` counts how often `normal` stands for `original`, itself included.
    """

    unknown_tokens: int = 0
    unknown_characters: int = 0
    unknown_bytes: int = 0
    changed_characters: int = 0
    changed_bytes: int = 0
    rewritten_characters: int = 0  # of the changed ones, those without a counterpart of one character
    substitutions: dict[str, dict[str, int]] = Field(default_factory=dict)


class LostTextCounter:
    """Adds up what is lost over many texts, or over the counts of several counters."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._substituted: Counter[str] = Counter()  # by normal and original character, as one string of two
        self._kept: Counter[str] = Counter()

    def add(self, tokenizer: Tokenizer, text: str) -> None:
        """Measure a text."""
        unknown, num_unknown_tokens = _unknown_positions(tokenizer, text)
        substituted, rewritten = _changes(tokenizer, text, unknown)
        changed = substituted.keys() | rewritten
        self._sums += Counter(
            unknown_tokens=num_unknown_tokens,
            unknown_characters=len(unknown),
            unknown_bytes=_num_bytes(text, unknown),
            changed_characters=len(changed),
            changed_bytes=_num_bytes(text, changed),
            rewritten_characters=len(rewritten),
        )
        self._substituted.update(normal + text[position] for position, normal in substituted.items())
        self._kept.update(text)
        self._kept.subtract(text[position] for position in unknown | changed)

    def document(self) -> dict[str, Any]:
        """The counts as JSON-ready values."""
        return {name: dict(+counts) for name, counts in vars(self).items()}

    def merge(self, document: Mapping[str, Mapping[str, int]]) -> None:
        """Add what another counter's `document` gave."""
        for name, counts in vars(self).items():
            counts.update(document[name])

    def total(self) -> LostText:
        """What was lost in all texts."""
        substitutions: dict[str, dict[str, int]] = {}
        for pair, count in sorted(self._substituted.items()):
            substitutions.setdefault(pair[0], {})[pair[1]] = count
        for normal, originals in substitutions.items():
            if self._kept[normal] > 0:
                originals[normal] = self._kept[normal]
        return LostText(**dict(self._sums), substitutions=substitutions)


def lost_bits(lost: LostText, num_characters: int) -> float:
    """The bits of a code that restores what is lost in a text of `num_characters`.

    An unknown or rewritten character is coded uniformly over Unicode's assigned characters, 17.24 bits; how
    unknown characters are divided among the unknown tokens, and where rewritten ones are, by the index
    among all possibilities. For a substituted one, the originals of each normal character are coded by the
    index among all their orders, and the table of substitutions by a character and a count per entry: a text
    in which every comma is full-width pays for one entry. (Enumerative codes: Cover, "Enumerative source
    encoding", IEEE Transactions on Information Theory, 1973.)
    """
    per_character = math.log2(UNICODE_CHARACTERS)
    bits = (lost.unknown_characters + lost.rewritten_characters) * per_character
    bits += _log2_orders((lost.unknown_tokens - 1, lost.unknown_characters - lost.unknown_tokens))
    bits += _log2_orders((lost.rewritten_characters, num_characters - lost.rewritten_characters))
    for originals in lost.substitutions.values():
        bits += _log2_orders(originals.values())
        bits += len(originals) * (per_character + math.log2(num_characters + 1))
    return bits


def _unknown_positions(tokenizer: Tokenizer, text: str) -> tuple[set[int], int]:
    """The characters that unknown tokens stand for, and the number of these tokens."""
    unknown = tokenizer.special.unk
    if unknown is None:
        return set(), 0
    ids = tokenizer.encode(text)
    if unknown not in ids:
        return set(), 0
    spans = [span for token, span in zip(ids, tokenizer.offsets(text), strict=True) if token == unknown]
    return {position for begin, end in spans for position in range(begin, end)}, len(spans)


def _changes(tokenizer: Tokenizer, text: str, unknown: set[int]) -> tuple[dict[int, str], set[int]]:
    """Positions whose character normalisation replaces, each with the new one; and those it rewrites."""
    substituted: dict[int, str] = {}
    rewritten: set[int] = set()
    if tokenizer.normalise(text) == text:
        return substituted, rewritten
    for start in range(0, len(text), _PIECE_CHARACTERS):
        piece = text[start : start + _PIECE_CHARACTERS]
        normal = tokenizer.normalise(piece)
        for begin, end, replacement in _edits(piece, normal):
            for offset in range(begin, end):
                if start + offset in unknown:
                    continue
                if len(replacement) == end - begin:
                    substituted[start + offset] = replacement[offset - begin]
                else:
                    rewritten.add(start + offset)
    return substituted, rewritten


def _edits(piece: str, normal: str) -> list[tuple[int, int, str]]:
    """Begin and end of each changed span of `piece`, and what `normal` has instead."""
    if len(piece) == len(normal):
        pairs = enumerate(zip(piece, normal, strict=True))
        return [(index, index + 1, new) for index, (old, new) in pairs if old != new]
    operations = SequenceMatcher(None, piece, normal, autojunk=False).get_opcodes()
    return [
        (begin, end, normal[new_begin:new_end])
        for kind, begin, end, new_begin, new_end in operations
        if kind != "equal"
    ]


def _num_bytes(text: str, positions: Iterable[int]) -> int:
    return sum(len(text[position].encode()) for position in positions)


def _log2_orders(counts: Iterable[int]) -> float:
    """The logarithm of the number of orders of items of several kinds: log2 (n! / (n_1! n_2! ...))."""
    numbers = [count for count in counts if count > 0]
    return (math.lgamma(sum(numbers) + 1) - sum(math.lgamma(n + 1) for n in numbers)) / math.log(2)
