"""Pre-training as a workload: a corpus under the objective of the family."""

import logging

from torch import nn

from fpm_cli.accounting.flops import StepFlops, step_flops, unpadded_flops
from fpm_cli.config.batch_split import BatchSplit
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.engine.batches import Batch, load_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.validation import validation_losses
from fpm_cli.engine.workload import ValidationResult, Workload
from fpm_cli.engine.world import World
from fpm_cli.errors import UsageError
from fpm_cli.models.build import build_network
from fpm_cli.objectives.base import Samples
from fpm_cli.objectives.build import build_samples
from fpm_cli.progress import Report
from fpm_cli.runs.run import Run

log = logging.getLogger(__name__)


class Pretraining(Workload):
    """Causal, masked or span-corruption training from initial weights."""

    def __init__(self, run: Run):
        self.config = run.config()
        corpus = Corpus.open(run.corpus_path())
        self.samples = build_samples(self.config, corpus, "train")
        self.validation_samples = _validation_samples(self.config, corpus)
        self._padded_flops = step_flops(self.config)
        self._flops: dict[int, StepFlops] = {}  # of the newest batches, whose padding is not computed for

    def build_network(self) -> nn.Module:
        """The preset's network."""
        return build_network(self.config)

    def micro_batches(self, index: int, split: BatchSplit, world: World) -> list[Batch]:
        """Global batch k of size G has the samples [k*G, (k+1)*G); rank r has the r-th of equal parts."""
        share, size = split.sequences_per_rank, split.micro_batch
        start = (index * split.num_ranks + world.rank) * share
        batches = [
            load_batch(self.samples, range(first, first + size), world.device)
            for first in range(start, start + share, size)
        ]
        if self.config.family == "bert":
            newest = {number: flops for number, flops in self._flops.items() if number == index - 1}
            self._flops = newest | {index: self._count_flops(batches, split)}
        return batches

    def _count_flops(self, batches: list[Batch], split: BatchSplit) -> StepFlops:
        """Of a global batch, all ranks of which are taken to have as much padding as this one."""
        model = hardware = tokens = 0
        for batch in batches:
            lengths = batch["lengths"].tolist() if "lengths" in batch else None
            if lengths is None:  # no padding
                lengths = [batch["tokens"].shape[1]] * len(batch["tokens"])
            flops = unpadded_flops(self.config, lengths, split.micro_batch, len(batch["masked_positions"]))
            model, hardware, tokens = model + flops.model, hardware + flops.hardware, tokens + flops.tokens
        return StepFlops(*(split.num_ranks * count for count in (model, hardware, tokens)))

    def validate(self, engine: TrainingEngine, report: Report) -> ValidationResult | None:
        """The losses over the first `train.eval_samples` validation samples, if the corpus has any."""
        if self.validation_samples is None:
            return None
        losses = validation_losses(engine, self.validation_samples, self.config, report)
        return ValidationResult(losses)

    def flops(self, index: int) -> StepFlops:
        """The same for every global batch, except BERT's, which differ in padding."""
        return self._flops.get(index, self._padded_flops)


def _validation_samples(config: RunConfig, corpus: Corpus) -> Samples | None:
    """The samples of the validation split, or None where it is too small for one."""
    try:
        return build_samples(config, corpus, "validation")
    except UsageError as error:
        log.warning("no validation loss: %s", error)
        return None
