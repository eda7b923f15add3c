"""Small tokenizers of every kind, trained once a session on the text that the package carries."""

from collections.abc import Callable
from importlib.resources import files

import pytest

from fpm_cli.tokenization import KINDS, Tokenizer, train_tokenizer

SIZE = 1024
WHOLE_WORDS = "bert-zh with whole words"


@pytest.fixture(scope="session")
def sample_texts() -> Callable[[str], list[str]]:
    def texts(kind: str) -> list[str]:
        file = files("fpm_cli.corpus").joinpath("sample", f"{kind[-2:]}.txt")
        return [line + "\n" for line in file.read_text(encoding="utf-8").split("\n")][:1500]

    return texts


@pytest.fixture(scope="session")
def trained(sample_texts) -> Callable[[str], Tokenizer]:
    made: dict[str, Tokenizer] = {}

    def get(kind: str) -> Tokenizer:
        if kind not in made:
            name, *choice = kind.split(" with ")
            made[kind] = train_tokenizer(name, sample_texts(name), SIZE, whole_words=bool(choice))
        return made[kind]

    return get


@pytest.fixture(params=[*KINDS, WHOLE_WORDS])
def tokenizer(request, trained) -> Tokenizer:
    return trained(request.param)
