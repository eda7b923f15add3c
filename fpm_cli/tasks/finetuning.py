"""Fine-tuning as a workload of the training engine: a task's examples under a classification head."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import torch

from fpm_cli.accounting.flops import StepFlops, classification_flops
from fpm_cli.engine.deepspeed_engine import Batch, BatchShape, TrainingEngine
from fpm_cli.engine.workload import Validation, Workload
from fpm_cli.engine.world import World
from fpm_cli.models.classifier import LOSS, Classifier, build_classifier
from fpm_cli.objectives.order import shuffled
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import read_task
from fpm_cli.tasks.encoded import EncodedExamples, Ids, load_encoded
from fpm_cli.tasks.recipe import both_orders
from fpm_cli.tasks.scores import scores_of
from fpm_cli.tasks.task_run import TASK_FILE

EXAMPLES = "examples"  # the folder of the encoded examples in a run
SHOWN = ("accuracy", "f1_positive", "f1_macro")  # of each validation, and what `select_by` may name


class Finetuning(Workload):
    """The examples in the run folder; the weights to start from are the run's checkpoint of step 0."""

    keeps_freed_memory: ClassVar[bool] = True

    def __init__(self, run: Run):
        self.config = run.config()
        assert self.config.finetune is not None
        self.task = read_task(run.path / TASK_FILE)
        self.examples = load_encoded(run.path / EXAMPLES / "train.safetensors")
        self.held_back = load_encoded(run.path / EXAMPLES / "validation.safetensors")
        self._flops: dict[int, StepFlops] = {}  # by length

    def build_model(self, device: torch.device) -> Classifier:
        """Fresh weights; the checkpoint of step 0, if there is one, replaces them."""
        smoothing = self.config.finetune.label_smoothing if self.config.finetune else 0.0
        return build_classifier(self.config, len(self.task.labels), smoothing, device)

    def rows(self, step: int) -> Ids:
        """The examples of step `step` (the first is 0): a new order each epoch, no example left out.

        With `finetune.both_orders` the second half of the examples are the pairs of the first, swapped; half
        of the pairs are swapped in even epochs, the others in odd ones.
        """
        size, orders = self.config.train.global_batch, 2 if both_orders(self.config) else 1
        count = len(self.examples) // orders
        rows = []
        for epoch, place in (divmod(index, count) for index in range(step * size, (step + 1) * size)):
            row = shuffled(place, count, self.config.train.seed, epoch)
            rows.append(row + (row + epoch) % orders * count)
        return np.array(rows)

    def batches(
        self, shape: BatchShape, world: World, *, first_step: int, last_step: int
    ) -> Iterator[list[Batch]]:
        """The next step's are made while the current one trains."""

        def load(step: int) -> list[Batch]:
            dealt = deal(self.examples, self.rows(step), world.size * shape.count)
            return [self.examples.batch(rows, world.device) for rows in dealt[world.rank :: world.size]]

        with ThreadPoolExecutor(1, thread_name_prefix="fpm-batches") as pool:
            following = pool.submit(load, first_step)
            for step in range(first_step, last_step):
                current = following.result()
                if step + 1 < last_step:
                    following = pool.submit(load, step + 1)
                yield current

    def validate(self, engine: TrainingEngine) -> Validation:
        """Loss and scores over all held-back examples, once each.

        Every rank runs as many forward passes as any other (ZeRO 3 gathers weights in step): the last ones
        may see an example that counts elsewhere.
        """
        world, size, labels = engine.world, self.config.train.micro_batch, len(self.task.labels)
        order = np.argsort(self.held_back.lengths, kind="stable")
        passes = -(-len(order) // (size * world.size))
        filled = np.resize(order, passes * size * world.size).reshape(passes, world.size, size)
        counts = (np.arange(filled.size) < len(order)).reshape(filled.shape)
        confusion = np.zeros((labels, labels))
        loss = 0.0
        engine.model.eval()
        with torch.no_grad():
            for rows, real in zip(filled[:, world.rank], counts[:, world.rank], strict=True):
                batch = self.held_back.batch(rows, world.device)
                logits = engine.deepspeed.module.logits(batch).float()
                each = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
                loss += float(each.cpu()[torch.from_numpy(real)].sum())
                predicted = logits.argmax(dim=1).cpu().numpy()
                np.add.at(confusion, (self.held_back.labels[rows][real], predicted[real]), 1)
        engine.model.train()
        total, *cells = world.sum([loss, *confusion.ravel()])
        scores = scores_of(np.array(cells).reshape(labels, labels), self.task.positive_class)
        shown: dict[str, float] = {name: float(scores[name]) for name in SHOWN if name in scores}
        return Validation({LOSS: total / len(order)}, shown, self.task.select_by)

    def flops(self, step: int) -> StepFlops:
        """Of the real tokens of the step's examples."""
        each = [self._sequence_flops(int(n)) for n in self.examples.lengths[self.rows(step - 1)]]
        return StepFlops(
            sum(flops.model for flops in each),
            sum(flops.hardware for flops in each),
            sum(flops.tokens for flops in each),
        )

    def _sequence_flops(self, length: int) -> StepFlops:
        if length not in self._flops:
            self._flops[length] = classification_flops(self.config, length)
        return self._flops[length]


def deal(examples: EncodedExamples, rows: Ids, num_batches: int) -> list[Ids]:
    """Split `rows` into `num_batches` batches of equal size, each sorted by length.

    Packed families get batches of nearly equal tokens, so that no rank waits for another: the longest are
    dealt first, in turns that go back and forth. Padded ones get neighbours in length, which pad least.
    """
    order = rows[np.argsort(-examples.lengths[rows], kind="stable")]
    if examples.family == "encdec":
        return list(order[::-1].reshape(num_batches, -1))
    turns = order.reshape(-1, num_batches)
    turns[1::2] = turns[1::2, ::-1]
    return list(turns.T[:, ::-1])
