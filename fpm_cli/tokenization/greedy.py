"""`t5-zh`: greedy longest match within jieba's words, as in CPM-2."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Self

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.tokenization import chinese
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

MODEL = "vocab.txt"
LONGEST_WORD = 200  # characters; a longer word is one <unk>, as in CPM-2
KEPT_FULL_WIDTH = "，。！（）？、；："
_CACHED_WORDS = 1 << 18

# U+FF01 to U+FF5E and the ideographic space, without the punctuation that Chinese text is written with.
HALF_WIDTH = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in KEPT_FULL_WIDTH},
    0x3000: 0x20,
}


class Greedy(Tokenizer):
    """jieba + U+2582/U+2583 + longest match (TsinghuaAI/CPM-2-Finetune, tokenization_enc_dec.py).

    Lost on the way (`normalise`): where `half_width`, full-width letters, digits and signs but
    ，。！（）？、；： become ASCII; U+2582 and U+2583 represent space and newline. A character outside the
    vocabulary, or a word of more than 200 characters, is `<unk>`.
    """

    kind: TokenizerKind = "t5-zh"
    hf_inexact: str | None = "jieba cuts words first, which tokenizer.json cannot say"

    def __init__(self, pieces: Sequence[str], half_width: bool = True) -> None:
        """`pieces` in the order of their ids, CPM's special tokens first."""
        self._pieces = list(pieces)
        self.special: SpecialTokens = special_ids(self._pieces)
        self.vocab_size = len(self._pieces)
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self._longest_piece = max(map(len, self._pieces))
        self._half_width = half_width
        self._cache: dict[str, tuple[int, ...]] = {}

    def _encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        ids: list[int] = []
        for word in self._words(text):
            ids += self._word_ids(word)
        return ids

    def _encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer.encode_batch`; words are cut many texts at a time."""
        if self._half_width:
            texts = [text if text.isascii() else text.translate(HALF_WIDTH) for text in texts]
        joined = chain.from_iterable(
            chinese.join_words(group, SPACE, NEWLINE) for group in chinese.batches(texts)
        )
        return [[i for word in line.split(" ") if word for i in self._word_ids(word)] for line in joined]

    def decode(self, ids: Iterable[int]) -> str:
        """Pieces joined, U+2582 and U+2583 mapped back."""
        return "".join(self.tokens(ids)).translate(FROM_MARKS)

    def normalise(self, text: str) -> str:
        """Half-width where asked for; the marks replaced by space and newline."""
        check_text(text)
        return (text.translate(HALF_WIDTH) if self._half_width else text).translate(FROM_MARKS)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """See `Tokenizer.tokens`."""
        return [self._pieces[i] for i in check_ids(ids, self.vocab_size)]

    def _word_starts(self, text: str) -> list[bool]:
        """True where a word of jieba begins."""
        return [index == 0 for word in self._words(text) for index in range(len(self._word_ids(word)))]

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """See `Tokenizer.offsets`; half-width characters take the place of full-width ones one by one."""
        found: list[tuple[int, int]] = []
        begin = 0
        for word in self._words(text):
            end = begin + len(word)
            for i in self._word_ids(word):
                length = len(self._pieces[i]) if i != self.special.unk else 1
                found.append((begin, end if len(word) > LONGEST_WORD else begin + length))
                begin = found[-1][1]
        return found

    def model_files(self) -> dict[str, bytes]:
        """The pieces, one per line in the order of their ids."""
        return {MODEL: "".join(f"{piece}\n" for piece in self._pieces).encode()}

    def options(self) -> dict[str, Any]:
        """Whether full-width characters become half-width."""
        return {"half_width": self._half_width}

    @classmethod
    def from_files(cls, kind: TokenizerKind, files: Mapping[str, bytes], options: Mapping[str, Any]) -> Self:
        """See `Tokenizer.from_files`."""
        return cls(files[MODEL].decode().removesuffix("\n").split("\n"), bool(options["half_width"]))

    def _words(self, text: str) -> list[str]:
        check_text(text)
        if self._half_width:
            text = text.translate(HALF_WIDTH)
        return chinese.words(text)

    def _word_ids(self, word: str) -> tuple[int, ...]:
        ids = self._cache.get(word)
        if ids is None:
            ids = tuple(self._longest_matches(word.translate(TO_MARKS)))
            if len(self._cache) >= _CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = ids
        return ids

    def _longest_matches(self, word: str) -> list[int]:
        unknown = 0
        if len(word) > LONGEST_WORD:
            return [unknown]
        ids, start = [], 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest_piece), start, -1):
                piece = self._ids.get(word[start:end])
                if piece is not None:
                    ids.append(piece)
                    start = end
                    break
            else:
                ids.append(unknown)
                start += 1
        return ids


def train_greedy(texts: Iterable[str], vocab_size: int, allow_smaller: bool) -> Greedy:
    """Pieces by byte-pair merges within jieba's words of the half-width text; the 190 sentinels come last."""
    fixed = len(SPECIALS) + 1 + len(SENTINELS)
    check_minimum("t5-zh", fixed + 1, vocab_size)
    counts = count_words(chinese.words(text.translate(HALF_WIDTH)) for text in texts)
    for mark in (" ", "\n", SPACE, NEWLINE):
        counts.pop(mark, None)
    counts = type(counts)({w: c for w, c in counts.items() if len(w) <= LONGEST_WORD and not w.isspace()})
    pieces = t5_vocabulary(train_subwords(counts, vocab_size - fixed).pieces, (SPACE,))
    check_size("t5-zh", len(pieces), vocab_size, allow_smaller)
    return Greedy(pieces)
