"""A run's trained network, ready to use: configuration, weights, tokenizer and corpus, on one device."""

from dataclasses import dataclass

import torch
from torch import nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.engine.checkpoint import load_weights
from fpm_cli.engine.run import Run
from fpm_cli.errors import DamagedError
from fpm_cli.models.build import build_skeleton


@dataclass(frozen=True)
class Trained:
    """The newest checkpoint of a run, in evaluation mode."""

    config: RunConfig
    model: nn.Module
    corpus: Corpus
    step: int
    device: torch.device


def load_trained(run: Run) -> Trained:
    """Load the run's newest weights in fp32 onto the GPU, or the CPU where there is none.

    Raises:
        MissingError: the run has no checkpoint yet, or its corpus is gone.
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
    return Trained(config, model, Corpus.open(run.corpus_path()), step, device)
