"""Two small tokenizers of the real kinds: bytes for GPT, characters for BERT."""

import pytest

from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import train_tokenizer

CHARACTERS = " ".join("abcdefghijklmnopqrstuvwxyz0123456789.,!?一二三四五六七八九完了好故事")


@pytest.fixture(scope="session")
def gpt() -> Tokenizer:
    return train_tokenizer("gpt-en", ["a"], 257)


@pytest.fixture(scope="session")
def bert() -> Tokenizer:
    return train_tokenizer("bert-zh", [CHARACTERS, "story begins ends"], 200, allow_smaller=True)
