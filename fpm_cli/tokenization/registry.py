"""The six kinds of tokenizer by name: their sizes, and how one is trained or loaded."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import get_args

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.errors import DamagedError, MissingError, UsageError, did_you_mean
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.byte_bpe import ByteBpe, train_byte_bpe
from fpm_cli.tokenization.greedy import Greedy, train_greedy
from fpm_cli.tokenization.long_texts import split_long
from fpm_cli.tokenization.merged_bpe import MergedBpe, train_merged_bpe
from fpm_cli.tokenization.store import read_directory
from fpm_cli.tokenization.unigram import Unigram, train_unigram
from fpm_cli.tokenization.wordpiece import WordPiece, train_wordpiece

KINDS: tuple[TokenizerKind, ...] = get_args(TokenizerKind)

CLASSES: dict[TokenizerKind, type[Tokenizer]] = {
    "gpt-en": ByteBpe,
    "gpt-zh": Unigram,
    "t5-zh": Greedy,
    "t5-en": MergedBpe,
    "bert-en": WordPiece,
    "bert-zh": WordPiece,
}

Trainer = Callable[[Iterable[str], int, bool], Tokenizer]

# Each takes texts, the size, and whether a smaller one will do.
TRAINERS: dict[TokenizerKind, Trainer] = {
    "gpt-en": train_byte_bpe,
    "gpt-zh": train_unigram,
    "t5-zh": train_greedy,
    "t5-en": train_merged_bpe,
    "bert-en": partial(train_wordpiece, "bert-en"),
    "bert-zh": partial(train_wordpiece, "bert-zh"),
}

# Table 2's vocabularies; BERT-English at the published 30,522.
PAPER_SIZES: dict[TokenizerKind, int] = {
    "gpt-en": 30_000,
    "gpt-zh": 30_000,
    "t5-zh": 26_240,
    "t5-en": 29_752,
    "bert-en": 30_522,
    "bert-zh": 21_128,
}


def check_kind(name: str) -> TokenizerKind:
    """The kind of that name, or UsageError."""
    for kind in KINDS:
        if kind == name:
            return kind
    raise UsageError(f"no tokenizer kind {name!r}{did_you_mean(name, KINDS)} (known: {', '.join(KINDS)})")


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote.

    Raises MissingError where there is none and DamagedError where a file, the fingerprint or the
    vocabulary's size disagrees with what was recorded.
    """
    stored = read_directory(Path(directory))
    try:
        kind = check_kind(stored.kind)
        tokenizer = CLASSES[kind].from_files(kind, stored.files, stored.options)
        if tokenizer.vocab_size != stored.vocab_size:
            raise ValueError(f"it has {tokenizer.vocab_size:,} pieces, recorded were {stored.vocab_size:,}")
    except (UsageError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"tokenizer {directory} is damaged: {error}; make or copy it again") from error
    return tokenizer


def train_tokenizer(
    kind: TokenizerKind,
    texts: Iterable[str],
    vocab_size: int,
    allow_smaller: bool = False,
    *,
    whole_words: bool = False,
) -> Tokenizer:
    """Train on `texts` (documents or lines) to exactly `vocab_size` entries, special ones included.

    The same texts give the same bytes. Where the text is too small for the size, UsageError names the
    largest possible one; with `allow_smaller` that one is trained. MissingError if there is no text.
    `whole_words` (bert-zh) keeps jieba's words together, which BERT cuts into characters.
    """
    checked = check_kind(kind)
    texts = (part for text in _with_content(texts) for part in split_long(text))
    if not whole_words:
        return TRAINERS[checked](texts, vocab_size, allow_smaller)
    if checked != "bert-zh":
        raise UsageError(f"whole words are an option of bert-zh alone, not of {kind}")
    return train_wordpiece(checked, texts, vocab_size, allow_smaller, whole_words=True)


def _with_content(texts: Iterable[str]) -> Iterator[str]:
    """The texts; MissingError where none has more than blanks."""
    stream = iter(texts)
    blank: list[str] = []
    for text in stream:
        if text.strip():
            return chain(blank, (text,), stream)
        blank.append(text)
    raise MissingError("no text to train on: every input is empty, or blank")
