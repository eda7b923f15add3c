"""Builds a small corpus from files given by their content, and reads it back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.options import build_options
from fpm_cli.tokenization.base import Tokenizer


def build_files(
    folder: Path, contents: Mapping[str, bytes], tokenizer: Tokenizer, source: Any = "text", **options: Any
) -> Corpus:
    """The corpus of the files, written into `folder / "in"` and read as one folder."""
    inputs = folder / "in"
    inputs.mkdir(exist_ok=True)
    for name, content in contents.items():
        (inputs / name).write_bytes(content)
    chosen = build_options(source, **{"near_duplicates": 0, **options})
    return build_corpus([inputs], tokenizer, folder / "corpus", chosen).corpus


def documents(corpus: Corpus) -> list[str]:
    """The texts of all documents of both splits, sorted."""
    sequences = [sequence for split in corpus.manifest.splits for sequence in corpus.split(split)]
    return sorted(corpus.tokenizer.decode(sequence[:-1].tolist()) for sequence in sequences)


def skipped(corpus: Corpus) -> dict[str, str]:
    """The reason for each file that was not read, by name."""
    return {file.name: file.reason for file in corpus.manifest.skipped}


def defects(corpus: Corpus) -> list[dict[str, Any]]:
    """The lines of `defects.jsonl`."""
    return [json.loads(line) for line in (corpus.path / "defects.jsonl").read_bytes().split(b"\n")[:-1]]
