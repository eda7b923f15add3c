"""Learning pieces from counted words: byte-pair merges over characters, the same bytes every time.

Hugging Face's trainers break ties by the order of a hash table: which of two equally rare characters
enters the alphabet, and which `##` character comes first, differ from run to run. Both orders are
fixed here by handing the trainer an alphabet that leaves it nothing to choose.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fpm_cli.errors import MissingError, UsageError
from fpm_cli.tokenization.long_texts import MAX_TRAINED_WORD

# The share of all characters that the alphabet covers if the vocabulary allows (CPM-1's setting), and
# the share of the vocabulary that single characters may take where there is not.
CHARACTER_COVERAGE = 0.9995
ALPHABET_SHARE = 0.8
# Pairs that occur once are not merged.
MIN_FREQUENCY = 2
_PRIVATE = 0xF0000  # plane 15: private use, so that no text has these characters


@dataclass(frozen=True)
class TrainedSubwords:
    """Pieces, single characters first, then in the order of their merges."""

    pieces: list[str]
    merges: list[tuple[str, str]]


def count_words(word_lists: Iterable[Iterable[str]]) -> Counter[str]:
    """How often each word occurs, in one pass; words of more than 1,000 characters are cut to so many."""
    counts: Counter[str] = Counter()
    for words in word_lists:
        counts.update(words)
    counts.pop("", None)
    for word in [word for word in counts if len(word) > MAX_TRAINED_WORD]:
        count = counts.pop(word)
        for begin in range(0, len(word), MAX_TRAINED_WORD):
            counts[word[begin : begin + MAX_TRAINED_WORD]] += count
    return counts


def choose_alphabet(
    character_counts: Mapping[str, int], max_size: int, coverage: float = CHARACTER_COVERAGE
) -> list[str]:
    """The most frequent characters that cover so much of the text.

    Where they exceed `max_size` they get four fifths of it, or all of it if `coverage` is 1. Ties go to
    the lower code point. The result is sorted by frequency.
    """
    ranked = sorted(character_counts, key=lambda c: (-character_counts[c], c))
    wanted, covered = coverage * sum(character_counts.values()), 0
    for index, character in enumerate(ranked):
        if covered >= wanted:
            ranked = ranked[:index]
            break
        covered += character_counts[character]
    if len(ranked) <= max_size or coverage == 1:
        return ranked[:max_size]
    return ranked[: max(1, int(ALPHABET_SHARE * max_size))]


def train_subwords(word_counts: Mapping[str, int], size: int, continuation: str = "") -> TrainedSubwords:
    """At most `size` pieces; fewer where the text has no more pairs that occur twice.

    With a `continuation` such as `##`, pieces inside a word are marked by it and distinct from the
    same letters at a word's start (WordPiece); without, the two are one piece (CPM-2).
    """
    if not word_counts:
        raise MissingError("no text to train on: nothing of it is left for this kind of tokenizer")
    marks = _ContinuationMarks(bool(continuation))
    counts = {marks.mark(word): count for word, count in word_counts.items() if "\n" not in word}
    characters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    alphabet = choose_alphabet(characters, size)
    model = _train_merges(counts, characters, alphabet, size)
    if (missing := size - model.get_vocab_size()) > 0:
        # Too few pairs to merge, as where every Chinese character is a word: characters fill the rest.
        more = choose_alphabet(characters, len(alphabet) + missing, coverage=1)
        model = _train_merges(counts, characters, more, size) if len(more) > len(alphabet) else model
    vocabulary = model.get_vocab()
    ranked = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = _merges(model.to_str())
    return TrainedSubwords(
        [marks.unmark(piece, continuation) for piece in ranked],
        [(marks.unmark(left, continuation), marks.unmark(right, continuation)) for left, right in merges],
    )


def _train_merges(
    counts: Mapping[str, int], characters: Mapping[str, int], alphabet: list[str], size: int
) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    # A character outside the alphabet breaks the word: what it parted must not be merged.
    dropped = {ord(character): "\n" for character in characters.keys() - set(alphabet)}
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    model.train_from_iterator(
        _repeated(counts, dropped),
        trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=MIN_FREQUENCY,
            show_progress=False,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
        ),
    )
    return model


def check_size(kind: str, largest: int, wanted: int, allow_smaller: bool) -> None:
    """UsageError naming the largest possible vocabulary, unless a smaller one is allowed."""
    if largest < wanted and not allow_smaller:
        raise UsageError(
            f"the text is too small for a {kind} vocabulary of {wanted:,}: the largest possible is "
            f"{largest:,}; give more text, --vocab-size {largest}, or --allow-smaller"
        )


def check_minimum(kind: str, smallest: int, wanted: int) -> None:
    """UsageError if the special tokens and one piece do not fit."""
    if wanted < smallest:
        raise UsageError(f"a {kind} vocabulary has at least {smallest:,} entries; {wanted:,} were asked for")


def _repeated(counts: Mapping[str, int], dropped: Mapping[int, str]) -> Iterator[str]:
    """Each word as often as it occurs, one per line: the trainer takes no counts."""
    lines_at_once = 1 << 16
    for word in sorted(counts):
        line = word.translate(dropped) + "\n"
        whole, rest = divmod(counts[word], lines_at_once)
        for _ in range(whole):
            yield line * lines_at_once
        if rest:
            yield line * rest


def _merges(model_json: str) -> list[tuple[str, str]]:
    import json

    return [(left, right) for left, right in json.loads(model_json)["model"]["merges"]]


class _ContinuationMarks:
    """Writes each character that continues a word as a private one, so that merges tell them apart."""

    def __init__(self, used: bool) -> None:
        self._used = used
        self._to_private: dict[int, int] = {}
        self._from_private: dict[int, int] = {}

    def mark(self, word: str) -> str:
        if not self._used or len(word) == 1:
            return word
        for character in word[1:]:
            code = ord(character)
            if code not in self._to_private:
                private = _PRIVATE + len(self._to_private)
                self._to_private[code], self._from_private[private] = private, code
        return word[0] + word[1:].translate(self._to_private)

    def unmark(self, piece: str, continuation: str) -> str:
        inside = ord(piece[0]) in self._from_private
        return (continuation if inside else "") + piece.translate(self._from_private)
