"""The six kinds by name: which class loads each, and which function trains it."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import get_args

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.errors import UsageError, did_you_mean
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.byte_bpe import ByteBpe, train_byte_bpe
from fpm_cli.tokenization.greedy import Greedy, train_greedy
from fpm_cli.tokenization.merged_bpe import MergedBpe, train_merged_bpe
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
