"""DeepSpeed behind a narrow door: its configuration, its engine, one optimizer step."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fpm_cli.config.deepspeed import explain_rejected, without_auto
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.layer_statistics import LayerStatistics
from fpm_cli.engine.optimizer import LR_SCALE, make_optimizer
from fpm_cli.engine.world import World
from fpm_cli.errors import DivergedError, UsageError

Batch = dict[str, Tensor]
Judge = Callable[[float, float], str | None]  # loss, gradient norm -> why not to take the step


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step tells, over all ranks."""

    losses: Mapping[str, float]  # nats per prediction, each term on its own
    gradient_norm: float  # before clipping
    skipped: str | None = None  # why no weight was changed
    loss_scale: float | None = None  # fp16 only: what gradients were multiplied by in this step
    overflowed: bool = False  # fp16 only: skipped to find a loss scale, which is no spike

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
        "zero_force_ds_cpu_optimizer": False,  # its own CPU Adam is compiled at first use; torch's is there
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16", "min_loss_scale": config.engine.min_loss_scale},
        "steps_per_print": 2**31,
    }
    options = without_auto(config.engine.deepspeed)
    options.pop("train_micro_batch_size_per_gpu", None)  # the most; this many ranks may need a smaller one
    return _merged(ours, options)


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
        from deepspeed.accelerator import get_accelerator
        from deepspeed.utils import logger

        logger.setLevel(logging.ERROR)
        self.model, self.world = model, world
        precision = resolve_precision(config)
        if precision == "fp16" and not get_accelerator().is_fp16_supported():
            raise UsageError("engine.precision fp16: this processor does not compute in it; use fp32 or bf16")
        self.ours_clips = config.engine.zero_stage == 0 and precision == "fp32"
        self.scales_loss, self.min_loss_scale = precision == "fp16", config.engine.min_loss_scale
        self._inner = make_optimizer(model, config.train)
        # DeepSpeed steps once with zero gradients to make the moments. Under ZeRO 0 in bf16 that step would
        # count: the first ones to follow would be up to a quarter too small.
        self._inner.gate = lambda: False
        try:
            self.deepspeed, self.optimizer, _, _ = deepspeed.initialize(
                model=model,
                optimizer=self._inner,
                config=deepspeed_config(config, world),
                dist_init_required=False,
            )
        except ValidationError as error:
            raise UsageError(explain_rejected(error)) from error

    def step(
        self,
        micro_batches: Sequence[Batch],
        lr: float,
        layers: LayerStatistics | None = None,
        judge: Judge | None = None,
    ) -> StepResult:
        """Forward and backward over this rank's micro-batches, then one optimizer step.

        Each summed loss is divided by its predictions over the whole global batch, so the gradient
        is that of the global mean however the batch is split. `layers` watches, if given. Where `judge`
        has a reason against the loss and the gradient norm, no weight and no moment is changed.

        Raises:
            DivergedError: fp16 gradients overflow at `engine.min_loss_scale`.
        """
        with layers.watching() if layers else nullcontext():
            return self._step(micro_batches, lr, layers, judge)

    def _step(
        self,
        micro_batches: Sequence[Batch],
        lr: float,
        layers: LayerStatistics | None,
        judge: Judge | None,
    ) -> StepResult:
        counts = self._global_counts(micro_batches)
        # DeepSpeed averages over ranks and micro-batches; this undoes it.
        scale = self.world.size * len(micro_batches)
        sums = dict.fromkeys(counts, 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group[LR_SCALE]
        for number, batch in enumerate(micro_batches, start=1):
            terms = self.deepspeed(batch)
            loss = sum(term / counts[name] for name, term in terms.items())
            self.deepspeed.backward(loss * scale)
            for name, term in terms.items():
                sums[name] += float(term.detach())
            if number < len(micro_batches):
                self.deepspeed.step()
        totals = self.world.sum(list(sums.values()))
        losses = {name: total / counts[name] for name, total in zip(sums, totals, strict=True)}
        if layers:
            layers.read_gradients(self._loss_scale() or 1.0)
        return self._update(losses, judge)

    def _update(self, losses: Mapping[str, float], judge: Judge | None) -> StepResult:
        """The last `step` of DeepSpeed's, which reduces, clips and updates, with the judge at the gate."""
        loss, scale = sum(losses.values()), self._loss_scale()
        own_norm = self._fp32_gradient_norm() if self.ours_clips else None
        verdicts: list[str | None] = []  # the inner optimizer steps each group; they share one verdict

        def gate() -> bool:
            if not verdicts:
                norm = self._reduced_norm() if own_norm is None else own_norm
                verdicts.append(judge(loss, norm) if judge else None)
            return verdicts[0] is None

        self._inner.gate = gate
        try:
            self.deepspeed.step()
        except Exception as error:  # DeepSpeed's loss scaler raises a bare one
            if "loss scale already at minimum" in str(error):
                raise DivergedError(self._at_the_floor()) from error
            raise
        norm = self._reduced_norm() if own_norm is None else own_norm
        if verdicts:
            return StepResult(losses, norm, verdicts[0], scale)
        if self.scales_loss and math.isfinite(loss):
            if scale is not None and scale <= self.min_loss_scale:
                raise DivergedError(self._at_the_floor())
            return StepResult(losses, math.inf, f"gradients overflow at loss scale {scale:g}", scale, True)
        why = judge(loss, math.inf) if judge else None
        return StepResult(losses, math.inf, why or "gradient norm is not finite", scale)

    def _loss_scale(self) -> float | None:
        return float(self.deepspeed.optimizer.loss_scale) if self.scales_loss else None

    def _reduced_norm(self) -> float:
        """Of the averaged gradients, which every optimizer of DeepSpeed's leaves here before it updates."""
        return float(self.deepspeed.optimizer._global_grad_norm)

    def _at_the_floor(self) -> str:
        return (
            f"training diverged: fp16 gradients overflow at the smallest loss scale ({self.min_loss_scale}); "
            "the last checkpoint is kept. Try engine.precision=bf16, or a lower train.lr"
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
