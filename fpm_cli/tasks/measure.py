"""How long fine-tuning a network takes on this machine, from real steps on the task's examples."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from fpm_cli.accounting.flops import classification_flops
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.world import World
from fpm_cli.models.classifier import build_classifier
from fpm_cli.tasks.batching import balanced_batches
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.encoded import EncodedExamples, Ids, encode_examples
from fpm_cli.tasks.examples import Example, read_examples
from fpm_cli.tasks.finetune_run import VALIDATION_FRACTION
from fpm_cli.tasks.overlap import is_searched, search_corpus
from fpm_cli.tasks.recipe import both_orders, finetune_config
from fpm_cli.tasks.split_validation import split_off_validation
from fpm_cli.tokenization.base import Tokenizer

MAX_STEPS = 12
MEASURED_EXAMPLES = 512  # encoded to measure with; the others are taken to be of the same lengths


@dataclass(frozen=True)
class FinetuningTime:
    """What fine-tuning one network and scoring it once take, without the start of the two commands."""

    finetune_seconds: float
    scoring_seconds: float
    model_flops: int


@dataclass(frozen=True)
class FinetuningPlan:
    """A fine-tuning as `fpm finetune` would run it: its task, its examples and the user's settings."""

    task: TaskDefinition
    tokenizer: Tokenizer
    train: Sequence[Example]
    validation: Sequence[Example]
    dev: Sequence[Example]
    assignments: tuple[str, ...]
    reading_seconds: float  # of the files, and of the search of the corpus for the evaluation examples

    @classmethod
    def read(
        cls,
        task: TaskDefinition,
        corpus: Corpus,
        train_files: Sequence[Path],
        dev_file: Path,
        assignments: tuple[str, ...],
    ) -> "FinetuningPlan":
        """Read the files and search the corpus of the pretraining, as `fpm evaluate` does.

        Raises:
            MissingError, DamagedError: a file is not there, or does not follow the task.
        """
        began = time.perf_counter()
        examples = [example for path in train_files for example in read_examples(task, path).examples]
        train, validation = split_off_validation(examples, VALIDATION_FRACTION)
        dev = read_examples(task, dev_file).examples
        if is_searched(corpus):
            search_corpus(corpus, [example.texts for example in dev])
        seconds = time.perf_counter() - began
        return cls(task, corpus.tokenizer, train, validation, dev, assignments, seconds)

    def config(self, pretrained: RunConfig) -> RunConfig:
        """The fine-tuning's configuration for one pretrained network."""
        return finetune_config(pretrained, self.task, len(self.train), assignments=self.assignments)


def measure_finetuning(
    plan: FinetuningPlan, pretrained: RunConfig, world: World, *, budget_seconds: float
) -> FinetuningTime:
    """Measure a few optimizer steps and forward passes, and add up the whole fine-tuning and its scoring.

    Args:
        plan: from `FinetuningPlan.read`.
        pretrained: the network's configuration.
        world: from `distributed_world`.
        budget_seconds: no step, and no forward pass, starts later than this after the first.
    """
    config = plan.config(pretrained)
    began = time.perf_counter()
    encoded = _encode(plan, config)
    encode_seconds = (time.perf_counter() - began) / len(encoded)  # of one example
    model = build_classifier(config, plan.task.num_outputs)
    engine = TrainingEngine(model, config, world)
    orders = 2 if both_orders(config) else 1
    num_train = orders * len(plan.train)
    step = _step_seconds(engine, config, encoded, world, budget_seconds)
    forward = _forward_seconds(engine, config, encoded, world, budget_seconds)  # of one example
    train, evaluations = config.train, config.train.steps // config.train.eval_every
    finetune = encode_seconds * (num_train + len(plan.validation))
    finetune += train.steps * step + evaluations * forward * len(plan.validation)
    flops = sum(classification_flops(config, int(length)).model for length in encoded.lengths) / len(encoded)
    return FinetuningTime(
        finetune_seconds=finetune,
        scoring_seconds=plan.reading_seconds + orders * len(plan.dev) * (encode_seconds + forward),
        model_flops=round(flops * train.steps * train.global_batch),
    )


def _encode(plan: FinetuningPlan, config: RunConfig) -> EncodedExamples:
    chosen = np.linspace(0, len(plan.train) - 1, min(MEASURED_EXAMPLES, len(plan.train))).astype(int)
    return encode_examples(
        [plan.train[place] for place in chosen],
        plan.tokenizer,
        config.family,
        config.train.sequence_length,
        regression=plan.task.is_regression,
    )


def _step_seconds(
    engine: TrainingEngine, config: RunConfig, encoded: EncodedExamples, world: World, budget_seconds: float
) -> float:
    """The mean over steps, whose batches differ in length."""
    split = split_batch(config.train, world.size)

    def step(index: int) -> float:
        rows = np.arange(index * config.train.global_batch, (index + 1) * config.train.global_batch)
        parts = balanced_batches(encoded, rows % len(encoded), world.size * split.num_micro_batches)
        batches = [encoded.batch(part, world.device) for part in parts[world.rank :: world.size]]
        start = time.perf_counter()
        engine.step(batches, lr=1e-5)
        return time.perf_counter() - start

    step(0)  # the first step allocates
    return _mean_within(budget_seconds, step)


def _forward_seconds(
    engine: TrainingEngine, config: RunConfig, encoded: EncodedExamples, world: World, budget_seconds: float
) -> float:
    size = min(4 * config.train.micro_batch, len(encoded))
    order: Ids = np.argsort(encoded.lengths, kind="stable")

    def forward(index: int) -> float:
        rows = np.take(order, range(index * size, (index + 1) * size), mode="wrap")
        start = time.perf_counter()
        with torch.no_grad():
            engine.deepspeed.module.logits(encoded.batch(rows, world.device))
        return (time.perf_counter() - start) / size

    engine.model.eval()
    forward(0)
    return _mean_within(budget_seconds, forward)


def _mean_within(budget_seconds: float, measure: Callable[[int], float]) -> float:
    began, seconds = time.perf_counter(), list[float]()
    while len(seconds) < MAX_STEPS and (not seconds or time.perf_counter() - began < budget_seconds):
        seconds.append(measure(len(seconds)))
    return fmean(seconds)
