"""A run's trained network, ready to use: configuration, weights, tokenizer and corpus, on one device."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.errors import DamagedError
from fpm_cli.models.build import build_skeleton
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import load_tokenizer


@dataclass(frozen=True)
class Trained:
    """The newest checkpoint of a run, in evaluation mode. Tokenizer and corpus are opened at first use."""

    config: RunConfig
    model: nn.Module
    run: Run
    step: int
    device: torch.device
    corpus_path: Path | None = None  # None: the one that the run trained on

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's own tokenizer where it was imported, else its corpus's.

        Raises:
            MissingError: there is neither.
        """
        own = self.run.tokenizer_path
        return load_tokenizer(own) if own.is_dir() else self.corpus.tokenizer

    @property
    def untrained(self) -> tuple[str, ...]:
        """Heads that imported weights did not have: they hold initial values and have learnt nothing."""
        return tuple(self.run.manifest().get("imported", {}).get("untrained", ()))

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus to score on.

        Raises:
            MissingError: it is gone, or the run was imported and has none.
            DamagedError: its ids are those of another tokenizer.
        """
        corpus = Corpus.open(self.corpus_path or self.run.corpus_path())
        own = self.run.tokenizer_path
        if own.is_dir() and load_tokenizer(own).fingerprint != corpus.manifest.tokenizer.fingerprint:
            raise DamagedError(f"{corpus.path} was made with another tokenizer than {own}")
        return corpus


def load_trained(run: Run, corpus: Path | None = None) -> Trained:
    """Load the run's newest weights in fp32 onto the GPU, or the CPU where there is none.

    Args:
        run: what to load.
        corpus: another corpus than the one that the run trained on.

    Raises:
        MissingError: the run has no checkpoint yet.
        DamagedError: the checkpoint is damaged, or does not belong to the configuration.
    """
    config = run.config()
    weights, step = load_weights(run)
    model = build_skeleton(config)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DamagedError(f"{run.path}: the checkpoint does not fit config.toml: {error}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.float().to(device).eval()
    return Trained(config, model, run, step, device, corpus)
