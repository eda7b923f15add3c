"""A proxy of each family with a corpus in memory."""

import pytest

from fpm_cli.config.schema import RunConfig
from tests.objectives.memory_corpus import MemoryCorpus, proxy, sentence_corpus, stream_corpus


@pytest.fixture(params=["gpt", "bert", "encdec"])
def family_case(request: pytest.FixtureRequest) -> tuple[RunConfig, MemoryCorpus]:
    """A proxy of each family, and a corpus for it."""
    config = proxy(request.param)
    corpus = sentence_corpus(60) if request.param == "bert" else stream_corpus(config.tokenizer, 20_000)
    return config, corpus
