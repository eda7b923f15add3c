"""The sample corpora inside the package: public-domain prose, enough to see a model learn."""

from importlib.resources import as_file, files
from pathlib import Path

from fpm_cli.config.schema import Language, RunConfig
from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.options import BuildOptions

VALIDATION_FRACTION = 0.1  # a tenth of so small a corpus still is only some twenty thousand tokens


def sample_text(language: Language) -> Path:
    """The packaged text of a language: UTF-8, a blank line between documents."""
    with as_file(files("fpm_cli.corpus") / "sample" / f"{language}.txt") as path:
        return path


def build_sample_corpus(config: RunConfig, out: Path) -> Corpus:
    """Train the configuration's tokenizer on its language's sample, and build the corpus in `out`."""
    from fpm_cli.tokenization.registry import train_tokenizer

    sample = sample_text(config.language)
    texts = sample.read_text(encoding="utf-8").split("\n\n")
    tokenizer = train_tokenizer(config.tokenizer, texts, config.model.vocab_size, allow_smaller=False)
    options = BuildOptions(source="text", validation_fraction=VALIDATION_FRACTION)
    return build_corpus([sample], tokenizer, out, options).corpus
