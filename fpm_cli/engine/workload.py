"""What the training loop trains: pre-training is one workload, fine-tuning on a task another."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from fpm_cli.accounting.flops import StepFlops
from fpm_cli.engine.deepspeed_engine import Batch, BatchShape, TrainingEngine
from fpm_cli.engine.world import World
from fpm_cli.runs.run import Run


@dataclass(frozen=True)
class Validation:
    """What was found on held-back samples, the same on every rank."""

    losses: Mapping[str, float]  # nats per prediction, each term on its own
    scores: Mapping[str, float] = field(default_factory=dict)  # of a task: higher is better
    select_by: str | None = None  # the score by which the best checkpoint is chosen

    @property
    def loss(self) -> float:
        """The objective: the sum of the terms."""
        return sum(self.losses.values())

    @property
    def criterion(self) -> float:
        """What the best checkpoint has least of: the loss, or what the chosen score lacks to 1."""
        return self.loss if self.select_by is None else 1.0 - self.scores[self.select_by]


class Workload(ABC):
    """Every rank makes its own from the run folder alone, so that workers need only its name."""

    keeps_freed_memory: ClassVar[bool] = False  # quicker, for more memory: `keep_freed_memory`

    @abstractmethod
    def __init__(self, run: Run) -> None: ...

    @abstractmethod
    def build_model(self, device: torch.device) -> nn.Module:
        """The network with the weights that step 1 starts from."""

    @abstractmethod
    def batches(
        self, shape: BatchShape, world: World, *, first_step: int, last_step: int
    ) -> Iterator[list[Batch]]:
        """This rank's `shape.count` micro-batches of each step from `first_step` (0: the first)."""

    @abstractmethod
    def validate(self, engine: TrainingEngine) -> Validation:
        """Losses, and scores if it has any, on samples that are never trained on."""

    @abstractmethod
    def flops(self, step: int) -> StepFlops:
        """What optimizer step `step` (counted from 1) computes over all ranks."""
