"""What the training loop trains: pre-training is one workload, fine-tuning on a task another."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from fpm_cli.accounting.flops import StepFlops
from fpm_cli.config.batch_split import BatchSplit
from fpm_cli.engine.batches import Batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.world import World
from fpm_cli.progress import Report
from fpm_cli.runs.run import Run


@dataclass(frozen=True)
class ValidationResult:
    """Losses and scores on samples that are never trained on, the same on every rank."""

    losses: Mapping[str, float]  # nats per prediction, each term on its own
    scores: Mapping[str, float] = field(default_factory=dict)  # of a task: higher is better
    select_by: str | None = None  # the score by which the best checkpoint is chosen

    @property
    def loss(self) -> float:
        """The objective: the sum of the terms."""
        return sum(self.losses.values())

    @property
    def selection_metric(self) -> float:
        """What the best checkpoint has least of: the loss, or 1 minus the chosen score."""
        return self.loss if self.select_by is None else 1.0 - self.scores[self.select_by]


class Workload(ABC):
    """Model, batches and validation of a run; every rank makes its own from the run folder alone."""

    keeps_large_blocks: ClassVar[bool] = False  # faster, for more memory: `keep_freed_memory`

    @abstractmethod
    def __init__(self, run: Run) -> None: ...

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network's modules on the default device; their values are replaced."""

    @abstractmethod
    def micro_batches(self, index: int, split: BatchSplit, world: World) -> list[Batch]:
        """This rank's `split.num_micro_batches` batches of global batch `index` (the first is 0).

        A pure function of its arguments; it is called in a thread of its own.
        """

    @abstractmethod
    def validate(self, engine: TrainingEngine, report: Report) -> ValidationResult | None:
        """Losses and scores on samples that are never trained on, if there are any; every rank calls this.

        `report` is called with the forward passes that are done, and their number.
        """

    @abstractmethod
    def flops(self, index: int) -> StepFlops:
        """What the optimizer step on global batch `index` computes over all ranks."""
