"""Fine-tuning as a workload of the training engine: a task's examples and a classification head."""

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpm_cli.accounting.flops import StepFlops, classification_flops
from fpm_cli.config.batch_split import BatchSplit
from fpm_cli.engine.batches import Batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.workload import ValidationResult, Workload
from fpm_cli.engine.world import World
from fpm_cli.models.classifier import LOSS, Classifier, build_classifier_network
from fpm_cli.objectives.order import shuffled
from fpm_cli.progress import Report
from fpm_cli.runs.run import Run
from fpm_cli.tasks.batching import balanced_batches
from fpm_cli.tasks.correlation import correlations
from fpm_cli.tasks.definition import read_task
from fpm_cli.tasks.encoded import Ids, load_encoded
from fpm_cli.tasks.recipe import both_orders
from fpm_cli.tasks.scores import confusion_matrix, scores_from_confusion
from fpm_cli.tasks.task_run import TASK_FILE

EXAMPLES = "examples"  # the folder of the encoded examples in a run
RECORDED_SCORES = ("accuracy", "f1_positive", "f1_macro")  # of each validation; `select_by` names one


class Finetuning(Workload):
    """Trains on the encoded examples in the run folder; the initial weights are its checkpoint of step 0."""

    keeps_large_blocks: ClassVar[bool] = True

    def __init__(self, run: Run):
        self.config = run.config()
        assert self.config.finetune is not None
        self.task = read_task(run.path / TASK_FILE)
        self.examples = load_encoded(run.path / EXAMPLES / "train.safetensors")
        self.validation_examples = load_encoded(run.path / EXAMPLES / "validation.safetensors")
        self._flops: dict[int, StepFlops] = {}  # by length

    def build_network(self) -> Classifier:
        """The network under a classification head; its weights come from the checkpoint of step 0."""
        smoothing = self.config.finetune.label_smoothing if self.config.finetune else 0.0
        return build_classifier_network(self.config, self.task.num_outputs, smoothing)

    def rows(self, index: int) -> Ids:
        """The examples of global batch `index` (the first is 0); each epoch has each once, in a new order.

        With `finetune.both_orders` the second half of the examples are the pairs of the first, swapped; half
        of the pairs are swapped in even epochs, the other half in odd ones.
        """
        size, orders = self.config.train.global_batch, 2 if both_orders(self.config) else 1
        count = len(self.examples) // orders
        rows = []
        positions = range(index * size, (index + 1) * size)
        for epoch, place in (divmod(position, count) for position in positions):
            row = shuffled(place, count, self.config.train.seed, epoch)
            rows.append(row + (row + epoch) % orders * count)
        return np.array(rows)

    def micro_batches(self, index: int, split: BatchSplit, world: World) -> list[Batch]:
        """This rank's batches of global batch `index`, each of nearly equal cost."""
        batches = balanced_batches(self.examples, self.rows(index), world.size * split.num_micro_batches)
        return [self.examples.batch(rows, world.device) for rows in batches[world.rank :: world.size]]

    def validate(self, engine: TrainingEngine, report: Report) -> ValidationResult:
        """Loss and scores over all validation examples, each counted once.

        Every rank runs the same number of forward passes, which ZeRO 3 needs to gather weights: the last
        passes are filled up with examples that are not counted.
        """
        world, size, width = engine.world, self.config.train.micro_batch, self.task.num_outputs
        order = np.argsort(self.validation_examples.lengths, kind="stable")
        passes = -(-len(order) // (size * world.size))
        padded = np.resize(order, passes * size * world.size).reshape(passes, world.size, size)
        is_counted = (np.arange(padded.size) < len(order)).reshape(padded.shape)
        outputs = np.zeros((len(order), width), dtype=np.float32)
        is_ours = np.zeros(len(order), dtype=bool)
        loss = 0.0
        engine.model.eval()
        with torch.no_grad():
            ours = zip(padded[:, world.rank], is_counted[:, world.rank], strict=True)
            for done, (rows, counted) in enumerate(ours, start=1):
                batch = self.validation_examples.batch(rows, world.device)
                logits = engine.deepspeed(batch, predicts=True)["logits"].float()
                loss += float(_losses(logits, batch["labels"]).cpu()[torch.from_numpy(counted)].sum())
                outputs[rows[counted]] = logits.cpu().numpy()[counted]
                is_ours[rows[counted]] = True
                report(done, passes)
        engine.model.train()
        total, recorded = self._scores(world, loss, outputs, is_ours)
        return ValidationResult({LOSS: total / len(order)}, recorded, self.task.selection_metric)

    def _scores(
        self, world: World, loss: float, outputs: NDArray[np.float32], is_ours: NDArray[np.bool_]
    ) -> tuple[float, dict[str, float]]:
        """The loss and the scores over all ranks.

        Args:
            world, loss: this rank's.
            outputs: (n, width), 0 where another rank has the example.
            is_ours: (n,), where this rank has it.
        """
        labels, width = self.validation_examples.labels, self.task.num_outputs
        names = dict.fromkeys((*RECORDED_SCORES, *self.task.metrics, self.task.selection_metric))
        if self.task.is_regression:
            total, *values = world.sum([loss, *outputs[:, 0].tolist()])
            scores = correlations(labels.astype(float), np.array(values))
        else:
            confusion = confusion_matrix(
                labels[is_ours].astype(np.int64), outputs[is_ours].argmax(axis=1), width
            )
            total, *cells = world.sum([loss, *confusion.ravel().tolist()])
            scores = scores_from_confusion(np.array(cells).reshape(width, width), self.task.positive_class)
        return total, {name: float(scores[name]) for name in names if name in scores}

    def flops(self, index: int) -> StepFlops:
        """FLOPs of the batch's examples, whose lengths differ."""
        per_example = [self._sequence_flops(int(n)) for n in self.examples.lengths[self.rows(index)]]
        return StepFlops(
            sum(flops.model for flops in per_example),
            sum(flops.hardware for flops in per_example),
            sum(flops.tokens for flops in per_example),
        )

    def _sequence_flops(self, length: int) -> StepFlops:
        if length not in self._flops:
            self._flops[length] = classification_flops(self.config, length)
        return self._flops[length]


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Each example's cross-entropy in nats, or squared error: (n, width), (n,) -> (n,)."""
    if labels.is_floating_point():
        return torch.nn.functional.mse_loss(logits[:, 0], labels, reduction="none")
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
