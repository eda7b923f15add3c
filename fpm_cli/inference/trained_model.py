"""Loads a run's checkpoint into its network, with the tokenizer and the corpus that belong to it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from fpm_cli import cuda
from fpm_cli.accounting.inference import InferenceMemory
from fpm_cli.checkpoints.checkpoint import open_checkpoint, read_weights
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.inference.memory import inference_dtype, require_memory
from fpm_cli.models.build import build_skeleton
from fpm_cli.models.classifier import Classifier
from fpm_cli.ops.selection import select
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import load_tokenizer

Network = TypeVar("Network", bound=nn.Module)
MemoryPlan = Callable[[RunConfig, int, int], InferenceMemory]  # run, parameters, bytes of each


_MENDS = {
    "cuda": "use a GPU with more memory, or CUDA_VISIBLE_DEVICES= to compute on the processor",
    "cpu": "free some, or use a machine with more memory",
}


def weights_alone(config: RunConfig, num_parameters: int, element_bytes: int) -> InferenceMemory:
    """The plan of a caller that needs little beside the weights."""
    return InferenceMemory(num_parameters * element_bytes)


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


def load_trained_model(
    run: Run, corpus: Path | None = None, *, on_host: bool = False, plan: MemoryPlan = weights_alone
) -> TrainedModel:
    """Load the newest weights of a pretrained or imported run.

    Args:
        run: the run to load.
        corpus: a corpus to score on other than the one that the run was trained on.
        on_host: exactly as they are saved, in float32 and in the host's memory.
        plan: what the caller will need in all, given the run, its parameters and the bytes of each.

    Raises:
        UsageError: the run was fine-tuned for a task, and so has a classification head.
        MissingError: the run has no checkpoint yet.
        DamagedError: the checkpoint is damaged, or does not fit the configuration.
        OutOfMemoryError: the memory that is free does not suffice.
    """
    if task := run.manifest().task:
        raise UsageError(
            f"{run.path} was fine-tuned for the task {task.name} and predicts labels, not tokens; "
            f"score it with `fpm evaluate {task.name} {run.path}`"
        )
    config = run.config()
    select(config.engine.kernels, config.engine.kernels_folder)
    model, step = load_checkpoint_into(build_skeleton(config), run, config, on_host=on_host, plan=plan)
    return TrainedModel(config, model, run, step, next(model.parameters()).device, corpus)


def load_trained_classifier(
    run: Run, *, on_host: bool = False, plan: MemoryPlan = weights_alone
) -> TrainedModel:
    """Load the best weights of a fine-tuned run: the checkpoint with the best validation score.

    Args:
        run, on_host, plan: as for `load_trained_model`.

    Raises:
        UsageError: the run was not fine-tuned.
        MissingError: the run has no checkpoint.
        DamagedError: the checkpoint is damaged, or does not fit the configuration.
        OutOfMemoryError: the memory that is free does not suffice.
    """
    task, config = run.manifest().task, run.config()
    if task is None:
        raise UsageError(f"{run.path} was not fine-tuned for a task")
    select(config.engine.kernels, config.engine.kernels_folder)
    with torch.device("meta"):
        skeleton = Classifier(config, max(1, len(task.labels)))  # regression has no labels, and one output
    model, step = load_checkpoint_into(skeleton, run, config, best=True, on_host=on_host, plan=plan)
    return TrainedModel(config, model, run, step, next(model.parameters()).device)


def load_checkpoint_into(
    skeleton: Network,
    run: Run,
    config: RunConfig,
    *,
    best: bool = False,
    on_host: bool = False,
    plan: MemoryPlan = weights_alone,
) -> tuple[Network, int]:
    """Give a network on the `meta` device the weights of a run, in evaluation mode.

    They are read from the checkpoint's files straight into the network: bf16 on a GPU that computes in it,
    float32 elsewhere.

    Args:
        skeleton: the network that the run's configuration describes.
        run: the run whose checkpoint is read.
        config: the run's.
        best: the checkpoint with the best validation result instead of the newest.
        on_host, plan: as for `load_trained_model`.

    Returns:
        The network, on the GPU where there is one and else on the CPU, and the checkpoint's step.

    Raises:
        MissingError: the run has no checkpoint yet.
        DamagedError: the checkpoint is damaged, or does not fit the network.
        OutOfMemoryError: the memory that is free does not suffice.
    """
    device = torch.device("cpu") if on_host else cuda.default_device()
    dtype = inference_dtype(device)
    shapes = {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
    num_parameters = sum(parameter.numel() for parameter in skeleton.parameters())
    folder, state = open_checkpoint(run, best=best)
    if shapes != state.shapes:
        name = next(n for n in {**shapes, **state.shapes} if shapes.get(n) != state.shapes.get(n))
        raise DamagedError(
            f"{run.path}: the checkpoint does not fit config.toml: {name} is {state.shapes.get(name)} "
            f"there and {shapes.get(name)} in this network"
        )
    needed = plan(config, num_parameters, dtype.itemsize)
    require_memory(str(run.path), needed, device, _MENDS[device.type])
    model = skeleton.to(dtype).to_empty(device=device)
    read_weights(folder, dict(model.named_parameters()))
    return model.eval(), state.step
