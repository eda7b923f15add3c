"""DeepSpeed behind a narrow door: its configuration, its engine, one optimizer step."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.layer_statistics import LayerStatistics
from fpm_cli.engine.optimizer import LR_SCALE, make_optimizer
from fpm_cli.engine.world import World
from fpm_cli.errors import UsageError

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step tells, over all ranks."""

    losses: Mapping[str, float]  # nats per prediction, each term on its own
    gradient_norm: float  # before clipping

    @property
    def loss(self) -> float:
        """The objective: the sum of the terms."""
        return sum(self.losses.values())


@dataclass(frozen=True)
class BatchShape:
    """How the global batch is split: `size` sequences a forward pass, `count` passes a rank."""

    size: int
    count: int


def batch_shape(config: RunConfig, world_size: int) -> BatchShape:
    """The largest micro-batch that the configuration allows and that divides a rank's share.

    Raises:
        UsageError: the global batch does not divide over the ranks.
    """
    share, rest = divmod(config.train.global_batch, world_size)
    if rest or not share:
        raise UsageError(
            f"train.global_batch {config.train.global_batch} does not divide over {world_size} processes"
        )
    size = max(n for n in range(1, min(share, config.train.micro_batch) + 1) if share % n == 0)
    return BatchShape(size, share // size)


def resolve_precision(config: RunConfig) -> str:
    """`auto` is bf16 on GPUs that have it and fp32 elsewhere (bf16 is far slower on most CPUs)."""
    if config.engine.precision != "auto":
        return config.engine.precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def deepspeed_config(config: RunConfig, world: World) -> dict[str, Any]:
    """DeepSpeed's JSON for this run; the user's `[engine.deepspeed]` table is merged last."""
    shape = batch_shape(config, world.size)
    zero: dict[str, Any] = {"stage": config.engine.zero_stage}
    if config.engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.engine.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    precision = resolve_precision(config)
    ours = {
        "train_batch_size": config.train.global_batch,
        "train_micro_batch_size_per_gpu": shape.size,
        "gradient_accumulation_steps": shape.count,
        "gradient_clipping": config.train.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "steps_per_print": 2**31,
    }
    return _merged(ours, config.engine.deepspeed)


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        both = isinstance(inner, dict) and isinstance(value, Mapping)
        merged[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged


class TrainingEngine:
    """A model under DeepSpeed that takes optimizer steps."""

    def __init__(self, model: nn.Module, config: RunConfig, world: World):
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        self.model, self.world = model, world
        self.ours_clips = config.engine.zero_stage == 0 and resolve_precision(config) == "fp32"
        self.deepspeed, self.optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(model, config.train),
            config=deepspeed_config(config, world),
            dist_init_required=False,
        )

    def step(
        self, micro_batches: Sequence[Batch], lr: float, layers: LayerStatistics | None = None
    ) -> StepResult:
        """Forward and backward over this rank's micro-batches, then one optimizer step.

        Each summed loss is divided by its predictions over the whole global batch, so the gradient
        is that of the global mean however the batch is split. `layers` watches, if given.
        """
        with layers.watching() if layers else nullcontext():
            return self._step(micro_batches, lr, layers)

    def _step(self, micro_batches: Sequence[Batch], lr: float, layers: LayerStatistics | None) -> StepResult:
        counts = self._global_counts(micro_batches)
        # DeepSpeed averages over ranks and micro-batches; this undoes it.
        scale = self.world.size * len(micro_batches)
        sums = dict.fromkeys(counts, 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group[LR_SCALE]
        for batch in micro_batches:
            terms = self.deepspeed(batch)
            loss = sum(term / counts[name] for name, term in terms.items())
            self.deepspeed.backward(loss * scale)
            for name, term in terms.items():
                sums[name] += float(term.detach())
            last = batch is micro_batches[-1]
            norm = self._fp32_gradient_norm() if last and self.ours_clips else None
            if last and layers:
                layers.read_gradients(float(getattr(self.deepspeed.optimizer, "loss_scale", 1.0)))
            self.deepspeed.step()
        if norm is None:
            norm = float(self.deepspeed.get_global_grad_norm())
        totals = self.world.sum(list(sums.values()))
        return StepResult(
            {name: total / counts[name] for name, total in zip(sums, totals, strict=True)}, norm
        )

    def _global_counts(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        local: dict[str, float] = {}
        for batch in micro_batches:
            for name, count in self.model.num_predictions(batch).items():  # type: ignore[operator]
                local[name] = local.get(name, 0.0) + float(count)
        return dict(zip(local, self.world.sum(list(local.values())), strict=True))

    def _fp32_gradient_norm(self) -> float:
        """ZeRO 0 in fp32 keeps no norm of its own; gradients are already averaged over ranks here."""
        return float(
            torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        )
