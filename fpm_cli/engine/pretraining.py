"""Pre-training as a workload: a corpus under the objective of the family."""

from collections.abc import Iterator

import torch
from torch import nn

from fpm_cli.accounting.flops import StepFlops, step_flops
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.engine.batches import training_batches
from fpm_cli.engine.deepspeed_engine import Batch, BatchShape, TrainingEngine
from fpm_cli.engine.validation import validation_losses
from fpm_cli.engine.workload import Validation, Workload
from fpm_cli.engine.world import World
from fpm_cli.models.build import build_model
from fpm_cli.objectives.build import build_samples
from fpm_cli.runs.run import Run


class Pretraining(Workload):
    """Causal, masked or span-corruption training from initial weights."""

    def __init__(self, run: Run):
        self.config = run.config()
        corpus = Corpus.open(run.corpus_path())
        self.samples = build_samples(self.config, corpus, "train")
        self.held_out = build_samples(self.config, corpus, "validation")
        self._flops = step_flops(self.config)

    def build_model(self, device: torch.device) -> nn.Module:
        """Initial weights, a function of the seed."""
        return build_model(self.config, device)

    def batches(
        self, shape: BatchShape, world: World, *, first_step: int, last_step: int
    ) -> Iterator[list[Batch]]:
        """Equal stretches of the samples in their order."""
        return training_batches(self.samples, shape, world, first_step=first_step, last_step=last_step)

    def validate(self, engine: TrainingEngine) -> Validation:
        """The losses over the first `train.eval_samples` held-out samples."""
        return Validation(validation_losses(engine, self.held_out, self.config))

    def flops(self, step: int) -> StepFlops:
        """The same in every step."""
        return self._flops
