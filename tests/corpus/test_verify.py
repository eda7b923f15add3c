"""Damage of any kind is found, and named."""

import random
from pathlib import Path

import pytest

from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.manifest import read_manifest
from fpm_cli.corpus.options import build_options
from fpm_cli.errors import DamagedError, FpmError, MissingError
from fpm_cli.tokenization.base import Tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, bert: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    texts = "\n\n".join(f"Story {i} begins. It ends. 完了。好故事。" for i in range(40))
    (folder / "a.txt").write_text(texts)
    options = build_options("text", near_duplicates=0, validation_fraction=0.1)
    build_corpus([folder / "a.txt"], bert, folder / "corpus", options)
    return folder / "corpus"


def damage(corpus: Path, name: str, content: bytes) -> FpmError:
    """Put `content` in the place of a file, and return the error that follows."""
    original = (corpus / name).read_bytes()
    (corpus / name).write_bytes(content)
    try:
        with pytest.raises((DamagedError, MissingError)) as raised:
            Corpus.open(corpus).verify()
    finally:
        (corpus / name).write_bytes(original)
    return raised.value


def files_by_size(corpus: Path, rng: random.Random, number: int) -> list[str]:
    """Files of a corpus drawn so that every one comes up and large ones more often."""
    sizes = {p.relative_to(corpus).as_posix(): p.stat().st_size for p in corpus.rglob("*") if p.is_file()}
    sizes = {name: size for name, size in sorted(sizes.items()) if size}
    return [*sizes, *rng.choices(list(sizes), list(sizes.values()), k=number - len(sizes))]


def test_a_whole_corpus_passes(corpus: Path) -> None:
    Corpus.open(corpus).verify()


def test_each_of_a_thousand_flipped_bits_is_found(corpus: Path) -> None:
    rng = random.Random(1)
    for name in files_by_size(corpus, rng, 1000):
        content = bytearray((corpus / name).read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        error = damage(corpus, name, bytes(content))
        assert Path(name).name in str(error), (name, str(error))
        assert error.exit_status == 6, (name, str(error))


def test_each_of_two_hundred_truncations_is_found(corpus: Path) -> None:
    rng = random.Random(2)
    for name in files_by_size(corpus, rng, 200):
        content = (corpus / name).read_bytes()
        error = damage(corpus, name, content[: rng.randrange(len(content))])
        assert Path(name).name in str(error)
        assert error.exit_status == 6, (name, str(error))


def test_another_tokenizer_in_the_corpus_is_refused(corpus: Path, gpt: Tokenizer, tmp_path: Path) -> None:
    (corpus / "tokenizer").rename(tmp_path / "original")
    try:
        gpt.save(corpus / "tokenizer")
        with pytest.raises(FpmError, match="tokenizer"):
            Corpus.open(corpus)
        with pytest.raises(DamagedError, match="fingerprint"):
            _ = Corpus(corpus, read_manifest(corpus / "manifest.json")).tokenizer
    finally:
        for path in (corpus / "tokenizer").iterdir():
            path.unlink()
        (corpus / "tokenizer").rmdir()
        (tmp_path / "original").rename(corpus / "tokenizer")
