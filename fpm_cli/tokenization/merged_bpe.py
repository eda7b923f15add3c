"""`t5-en`: byte-pair encoding of nltk's words, one piece for `happy` whether or not a space precedes it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.tokenization import english
from fpm_cli.tokenization.base import SpecialTokens, Tokenizer, check_ids, check_text
from fpm_cli.tokenization.cpm import (
    FROM_MARKS,
    NEWLINE,
    SENTINELS,
    SPACE,
    SPECIALS,
    TO_MARKS,
    special_ids,
    t5_vocabulary,
)
from fpm_cli.tokenization.subwords import check_minimum, check_size, count_words, train_subwords

MODEL = "bpe.json"
JOIN = "\u2581"
LONGEST_RUN = 1000  # characters; a longer run without white space is cut there for nltk's rules
_CACHED_RUNS = 1 << 18

# A space is implied between two pieces but after these and before those.
_OPENING = frozenset("([{<$#£€@-–—/\\_‘“«¿¡")
_CLOSING = frozenset(")]}>.,;:!?%'-–—/\\_’”»…")

# White space but the two kinds that have marks becomes a space; a mark becomes what it represents.
_NORMAL = {
    **{ord(c): " " for c in map(chr, range(0x3001)) if c.isspace() and c != "\n"},
    ord(SPACE): " ",
    ord(NEWLINE): "\n",
    ord(JOIN): "_",
}
_GAP_AND_RUN = re.compile(r"([ \n]*)([^ \n]*)")


@dataclass(frozen=True, slots=True)
class _EncodedRun:
    """The encoding of a run between spaces: ids, word starts, and the pieces at its ends."""

    ids: tuple[int, ...]
    starts: tuple[bool, ...]
    first: str
    last: str


class MergedBpe(Tokenizer):
    """Pieces carry no space marks: a single space between words is implied.

    Where the implied reading is wrong, ids say so: U+2581 for "no space here" (inside a word of
    several pieces), U+2582 for each space and U+2583 for each newline that is written and not
    implied. So no text changes but for `normalise`: other white space becomes a space, and U+2581
    to U+2583 become `_`, space and newline. A character outside the vocabulary is `<unk>`.
    """

    kind: TokenizerKind = "t5-en"
    hf_inexact: str | None = "nltk cuts words first, which tokenizer.json cannot say"

    def __init__(self, pieces: Sequence[str], merges: Sequence[tuple[str, str]]) -> None:
        """`pieces` in the order of their ids: CPM's special tokens, U+2582, U+2581, the rest."""
        from tokenizers import models

        self._pieces = list(pieces)
        self.special: SpecialTokens = special_ids(self._pieces)
        if self._pieces[8:10] != [SPACE, JOIN]:
            raise ValueError("ids 8 and 9 are not U+2582 and U+2581")
        self.vocab_size = len(self._pieces)
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self._merges = [(left, right) for left, right in merges]
        self._bpe = models.BPE(self._ids, self._merges, unk_token="<unk>", fuse_unk=False)
        self._marks = frozenset((SPACE, NEWLINE, JOIN))
        self._cache: dict[str, _EncodedRun] = {}

    def _encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        ids: list[int] = []
        for some, _ in self._segments(text):
            ids += some
        return ids

    def split_long(self, text: str) -> list[str]:
        """The whole text: it is encoded one run at a time, and the space between two runs is implied."""
        return [text]

    def decode(self, ids: Iterable[int]) -> str:
        """Pieces with the implied spaces; `<unk>` where a character was unknown."""
        parts: list[str] = []
        before = ""
        for piece in self.tokens(ids):
            if piece in self._marks:
                parts.append("" if piece == JOIN else piece.translate(FROM_MARKS))
                before = ""
            else:
                parts.append(" " + piece if before and _space_implied(before, piece) else piece)
                before = piece
        return "".join(parts)

    def normalise(self, text: str) -> str:
        """See the class."""
        check_text(text)
        return text.translate(_NORMAL)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """See `Tokenizer.tokens`."""
        return [self._pieces[i] for i in check_ids(ids, self.vocab_size)]

    def _word_starts(self, text: str) -> list[bool]:
        """True where one of nltk's words, or a written space, begins."""
        return [start for _, starts in self._segments(text) for start in starts]

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """See `Tokenizer.offsets`; U+2581 represents no character, and an implied space has no token."""
        normal = self.normalise(text)
        found: list[tuple[int, int]] = []
        begin = 0
        for i, piece in zip(ids := self._encode(text), self.tokens(ids), strict=True):
            if piece == JOIN:
                found.append((begin, begin))
                continue
            if piece not in self._marks:
                begin += normal.startswith(" ", begin)
            end = begin + (1 if i == self.special.unk else len(piece))
            found.append((begin, end))
            begin = end
        return found

    def model_files(self) -> dict[str, bytes]:
        """Pieces in the order of their ids, and merges in the order of their rank."""
        model = {"pieces": self._pieces, "merges": self._merges}
        return {MODEL: json.dumps(model, ensure_ascii=False, indent=0).encode()}

    def options(self) -> dict[str, Any]:
        """Nothing beyond the model."""
        return {}

    @classmethod
    def from_files(cls, kind: TokenizerKind, files: Mapping[str, bytes], options: Mapping[str, Any]) -> Self:
        """See `Tokenizer.from_files`."""
        model = json.loads(files[MODEL])
        return cls(model["pieces"], [(left, right) for left, right in model["merges"]])

    def _segments(self, text: str) -> Iterator[tuple[Sequence[int], Sequence[bool]]]:
        """Ids and word starts of each gap and each run, in order."""
        before = ""
        for match in _GAP_AND_RUN.finditer(self.normalise(text)):
            gap, characters = match.groups()
            run = self._run(characters) if characters else None
            implied = " " if before and run and _space_implied(before, run.first) else ""
            if gap and gap != implied:
                yield [self._ids[mark] for mark in gap.translate(TO_MARKS)], [True] * len(gap)
            elif gap != implied:
                yield [self._ids[JOIN]], [False]
            if run:
                yield run.ids, run.starts
                before = run.last

    def _run(self, characters: str) -> _EncodedRun:
        run = self._cache.get(characters)
        if run is None:
            run = self._cut(characters)
            if len(self._cache) >= _CACHED_RUNS:
                self._cache.clear()
            self._cache[characters] = run
        return run

    def _cut(self, characters: str) -> _EncodedRun:
        ids: list[int] = []
        starts: list[bool] = []
        first = before = ""
        for word in _words(characters):
            for index, token in enumerate(self._bpe.tokenize(word)):
                if before and _space_implied(before, token.value):
                    ids.append(self._ids[JOIN])
                    starts.append(False)
                ids.append(token.id)
                starts.append(index == 0)
                before = token.value
                first = first or before
        return _EncodedRun(tuple(ids), tuple(starts), first, before)


def _space_implied(left: str, right: str) -> bool:
    """Whether decoding puts a space between two neighbouring pieces."""
    return left[-1] not in _OPENING and right[0] not in _CLOSING and right != "n't"


def _words(run: str) -> Iterator[str]:
    for begin in range(0, len(run), LONGEST_RUN):
        yield from english.words(run[begin : begin + LONGEST_RUN])


def train_merged_bpe(texts: Iterable[str], vocab_size: int, allow_smaller: bool) -> MergedBpe:
    """Byte-pair merges within nltk's words; the 190 sentinels come last."""
    fixed = len(SPECIALS) + 2 + len(SENTINELS)
    check_minimum("t5-en", fixed + 1, vocab_size)
    runs = count_words(text.translate(_NORMAL).split() for text in texts)
    counts = type(runs)()
    for run, count in runs.items():
        for word in _words(run):
            counts[word] += count
    trained = train_subwords(counts, vocab_size - fixed)
    pieces = t5_vocabulary(trained.pieces, (SPACE, JOIN))
    check_size("t5-en", len(pieces), vocab_size, allow_smaller)
    return MergedBpe(pieces, trained.merges)
