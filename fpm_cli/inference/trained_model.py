"""Loads a run's checkpoint into its network, with the tokenizer and the corpus that belong to it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from fpm_cli import cuda
from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.models.build import build_skeleton
from fpm_cli.models.classifier import Classifier
from fpm_cli.ops.selection import select
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import load_tokenizer

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint of a run in evaluation mode: a language model, or a classifier after fine-tuning.

    The tokenizer and the corpus are opened at first use.
    """

    config: RunConfig
    model: nn.Module
    run: Run
    step: int
    device: torch.device
    corpus_path: Path | None = None  # None: the corpus that the run was trained on

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the run folder, or, in runs that have none, the one of the corpus.

        Raises:
            MissingError: there is neither.
        """
        in_run = self.run.tokenizer_path
        return load_tokenizer(in_run) if in_run.is_dir() else self.corpus.tokenizer

    @property
    def untrained_heads(self) -> tuple[str, ...]:
        """Heads that imported weights did not contain; they hold initial values."""
        imported = self.run.manifest().imported
        return imported.untrained if imported else ()

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus to score on.

        Raises:
            MissingError: it is gone, or the run was imported and has none.
            DamagedError: its token ids were made with another tokenizer than the run's.
        """
        corpus = Corpus.open(self.corpus_path or self.run.corpus_path())
        in_run = self.run.tokenizer_path
        if in_run.is_dir() and load_tokenizer(in_run).fingerprint != corpus.manifest.tokenizer.fingerprint:
            raise DamagedError(f"{corpus.path} was made with another tokenizer than {in_run}")
        return corpus


def load_trained_model(run: Run, corpus: Path | None = None) -> TrainedModel:
    """Load the newest weights of a pretrained or imported run.

    Args:
        run: the run to load.
        corpus: a corpus to score on other than the one that the run was trained on.

    Raises:
        UsageError: the run was fine-tuned for a task, and so has a classification head.
        MissingError: the run has no checkpoint yet.
        DamagedError: the checkpoint is damaged, or does not fit the configuration.
    """
    if task := run.manifest().task:
        raise UsageError(
            f"{run.path} was fine-tuned for the task {task.name} and predicts labels, not tokens; "
            f"score it with `fpm evaluate {task.name} {run.path}`"
        )
    config = run.config()
    select(config.engine.kernels, config.engine.kernels_folder)
    model, step = load_checkpoint_into(build_skeleton(config), run)
    return TrainedModel(config, model, run, step, next(model.parameters()).device, corpus)


def load_trained_classifier(run: Run) -> TrainedModel:
    """Load the best weights of a fine-tuned run: the checkpoint with the best validation score.

    Raises:
        UsageError: the run was not fine-tuned.
        MissingError: the run has no checkpoint.
        DamagedError: the checkpoint is damaged, or does not fit the configuration.
    """
    task, config = run.manifest().task, run.config()
    if task is None:
        raise UsageError(f"{run.path} was not fine-tuned for a task")
    select(config.engine.kernels, config.engine.kernels_folder)
    with torch.device("meta"):
        skeleton = Classifier(config, max(1, len(task.labels)))  # regression has no labels, and one output
    model, step = load_checkpoint_into(skeleton, run, best=True)
    return TrainedModel(config, model, run, step, next(model.parameters()).device)


def load_checkpoint_into(skeleton: Network, run: Run, *, best: bool = False) -> tuple[Network, int]:
    """Give a network on the `meta` device the weights of a run, in fp32 and in evaluation mode.

    Args:
        skeleton: the network that the run's configuration describes.
        run: the run whose checkpoint is read.
        best: the checkpoint with the best validation result instead of the newest.

    Returns:
        The network, on the GPU where there is one and else on the CPU, and the checkpoint's step.

    Raises:
        MissingError: the run has no checkpoint yet.
        DamagedError: the checkpoint is damaged, or does not fit the network.
    """
    weights, step = load_weights(run, best=best)
    try:
        skeleton.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DamagedError(f"{run.path}: the checkpoint does not fit config.toml: {error}") from error
    device = cuda.default_device()
    return skeleton.float().to(device).eval(), step
