"""The data that a pretraining run was trained on: its corpus's manifest and unigram entropy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fpm_cli.config.schema import Family
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.manifest import Manifest
from fpm_cli.errors import FpmError
from fpm_cli.reports.run_facts import RunFacts


@dataclass(frozen=True)
class CorpusFacts:
    """A corpus's manifest; `unigram_entropy` is in nats per token of the validation text.

    It is None for encoder-decoders, which predict sentinels between the tokens.
    """

    manifest: Manifest
    unigram_entropy: float | None

    def rows(self) -> list[tuple[str, str]]:
        """The data card as names and values."""
        manifest, counts = self.manifest, self.manifest.counts
        inputs = ", ".join(f"{file.name} ({file.bytes:,} bytes)" for file in manifest.inputs[:8])
        more = len(manifest.inputs) - 8
        return [
            ("source", manifest.source),
            ("inputs", f"{inputs}{f' and {more} more' if more > 0 else ''}"),
            ("documents", f"{counts.documents_read:,} read, {counts.documents_kept:,} kept"),
            ("dropped", _counts(counts.dropped)),
            ("defects", _counts(counts.defects)),
            ("tokenizer", f"{manifest.tokenizer.kind}, {manifest.tokenizer.vocab_size:,} entries"),
            *(
                (
                    f"{name} split",
                    f"{facts.documents:,} documents, {facts.tokens:,} tokens, {facts.text_bytes:,} bytes",
                )
                for name, facts in manifest.splits.items()
            ),
        ]


def corpus_facts(run: RunFacts) -> CorpusFacts | None:
    """The corpus of a pretraining run; None where it has none, or it is not at the recorded path."""
    recorded = run.manifest.corpus
    if recorded is None or run.task:
        return None
    return read_corpus_facts(run.path / recorded, run.config.family)


def read_corpus_facts(path: Path, family: Family) -> CorpusFacts | None:
    """A corpus as a family of networks sees it; None where it is not there, or damaged."""
    try:
        corpus = Corpus.open(path)
        entropy = None if family == "encdec" else _entropy(corpus.split("validation").tokens)
    except (FpmError, OSError):
        return None
    return CorpusFacts(corpus.manifest, entropy)


def _entropy(tokens: "np.ndarray[Any, Any]") -> float | None:
    """Entropy in nats of the frequencies of token ids, (n,)."""
    if not len(tokens):
        return None
    counts = np.bincount(tokens.astype(np.int64))
    shares = counts[counts > 0] / len(tokens)
    return float(-(shares * np.log(shares)).sum())


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')} {number:,}" for reason, number in counts.items()) or "none"
