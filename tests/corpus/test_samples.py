"""The packaged text suits every kind of tokenizer at the size its proxy has."""

from pathlib import Path

import pytest

from fpm_cli.config.resolve import resolve
from fpm_cli.corpus.samples import build_sample_corpus, sample_text

PRESET_OF_KIND = {
    "gpt-en": "EPM-X-S",
    "gpt-zh": "CPM-X-S",
    "t5-en": "EPM-2-X-S",
    "t5-zh": "CPM-2-X-S",
    "bert-en": "BERT-E-S",
    "bert-zh": "BERT-X-CN-S",
}


@pytest.mark.parametrize("kind", PRESET_OF_KIND)
def test_every_kind_builds_its_sample_corpus(tmp_path: Path, kind: str) -> None:
    config = resolve(PRESET_OF_KIND[kind], proxy=True, environment={}).config
    assert config.tokenizer == kind
    corpus = build_sample_corpus(config, tmp_path / "corpus")
    assert corpus.tokenizer.vocab_size == config.model.vocab_size
    assert not corpus.manifest.counts.dropped
    splits = corpus.manifest.splits
    assert splits["train"].tokens > 60_000
    assert splits["validation"].documents >= 10
    if kind.startswith("bert"):
        words = corpus.word_starts("train")
        assert words is not None and 0.4 < words.mean() < 0.95
        assert splits["train"].sequences > 10 * splits["train"].documents


@pytest.mark.parametrize("language", ["zh", "en"])
def test_samples_are_small_and_clean(language: str) -> None:
    content = sample_text(language).read_bytes()  # type: ignore[arg-type]
    assert len(content) < 300_000
    assert b"\r" not in content and b"\xef\xbb\xbf" not in content
    assert content.endswith(b"\n") and b"\n\n\n" not in content
