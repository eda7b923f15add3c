"""What the benchmarks of training share: configurations on the packaged sample, their corpora and batches."""

from collections.abc import Mapping
from pathlib import Path

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.samples import build_sample_corpus
from fpm_cli.runs.run import Run

PROXIES = ("CPM-X-L", "BERT-E-E", "CPM-2-X-M")  # one of each family, the deepest


def proxy(preset: str, settings: Mapping[str, object] | None = None) -> RunConfig:
    """The preset's proxy, in float32 on one device without ZeRO, with some settings changed."""
    values = {"engine.zero_stage": 0, "engine.precision": "fp32", **(settings or {})}
    assignments = [f"{key}={value}" for key, value in values.items()]
    return resolve(preset, proxy=True, environment={}, assignments=assignments).config


def sample_run(folder: Path, config: RunConfig) -> tuple[Run, Corpus]:
    """A new run in `folder/run` on a corpus of the packaged sample in `folder/corpus`."""
    corpus = build_sample_corpus(config, folder / "corpus")
    return Run.create(folder / "run", config, folder / "corpus"), corpus
