"""Each kind trained to the paper's exact size on the texts beside the checkout."""

from itertools import chain, islice

import pytest

from fpm_cli.errors import UsageError
from fpm_cli.tokenization import train_tokenizer
from fpm_cli.tokenization.registry import PAPER_SIZES
from fpm_cli.tokenization.text_files import join_lines
from tests.tokenization.texts import lines_of

pytestmark = pytest.mark.long

# Lines of each language: enough for the size, and no more than minutes.
LINES = {
    "gpt-en": {"en": 400_000},
    "t5-en": {"en": 400_000},
    "bert-en": {"en": 400_000},
    "gpt-zh": {"zh": 200_000},
    "t5-zh": {"zh": 200_000},
    "bert-zh": {"zh": 300_000, "en": 400_000},  # Chinese characters alone are too few
}


def texts_for(kind, data):
    parts = (islice(lines_of(data, language), count) for language, count in LINES[kind].items())
    return join_lines(chain(*parts))


@pytest.mark.parametrize("kind", PAPER_SIZES)
def test_the_papers_size_is_reached_exactly(kind, shared_data):
    tokenizer = train_tokenizer(kind, texts_for(kind, shared_data), PAPER_SIZES[kind])
    assert tokenizer.vocab_size == PAPER_SIZES[kind]
    text = next(islice(texts_for(kind, shared_data), 3, None))
    ids = tokenizer.encode(text)
    assert ids.count(tokenizer.special.unk) / len(ids) < 0.005


@pytest.mark.parametrize("kind", PAPER_SIZES)
def test_on_shakespeare_alone_the_largest_size_is_named(kind, shared_data):
    file = next((shared_data / "en_tinyshakespeare").rglob("input.txt"))
    with pytest.raises(UsageError, match="largest possible is"):
        train_tokenizer(kind, [file.read_text(encoding="utf-8")], PAPER_SIZES[kind])
