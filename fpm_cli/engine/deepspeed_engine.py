"""A model under DeepSpeed: one optimizer step at a time."""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.deepspeed import deepspeed_config
from fpm_cli.config.deepspeed_options import explain_rejected
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.batches import Batch
from fpm_cli.engine.flat_optimizer import FlatAdamW
from fpm_cli.engine.layer_statistics import LayerStatistics, LayerValues
from fpm_cli.engine.optimizer import LR_SCALE, ShouldSkip, make_optimizer
from fpm_cli.engine.start import wrapping_without_values
from fpm_cli.engine.world import World, has_native_bf16
from fpm_cli.errors import DivergedError, UsageError
from fpm_cli.models.blocks import Layer
from fpm_cli.ops.selection import is_compiled, select


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step measured, over all ranks."""

    losses: Mapping[str, float]  # nats per prediction, each term on its own
    gradient_norm: float  # before clipping
    skipped: str | None = None  # why no weight was changed
    loss_scale: float | None = None  # fp16 only: what gradients were multiplied by in this step
    overflowed: bool = False  # fp16 only: skipped to find a loss scale, which is no loss spike
    layers: LayerValues = field(default_factory=dict)  # where layer statistics were due

    @property
    def loss(self) -> float:
        """The objective: the sum of the terms."""
        return sum(self.losses.values())


class TrainingEngine:
    """A model under DeepSpeed that takes optimizer steps.

    Args:
        model: its `forward` returns summed losses by name, its `num_predictions` what each is a sum over.
        config: the run.
        world: from `distributed_world`.
        should_skip: asked in each step, with the loss and the gradient norm, before a weight is changed.

    Raises:
        UsageError: DeepSpeed rejects an option, or this device does not compute in the precision.
    """

    def __init__(
        self, model: nn.Module, config: RunConfig, world: World, should_skip: ShouldSkip | None = None
    ):
        import deepspeed
        from deepspeed.accelerator import get_accelerator
        from deepspeed.utils import logger, set_z3_leaf_modules

        logger.setLevel(logging.ERROR)
        self.model, self.world = model, world
        precision = config.engine.resolve_precision(has_bf16=has_native_bf16(world.device))
        if precision == "fp16" and not get_accelerator().is_fp16_supported():
            raise UsageError("engine.precision fp16: this processor does not compute in it; use fp32 or bf16")
        # ZeRO 0 in fp32 has no optimizer wrapper of DeepSpeed's, which would keep the norm.
        self._computes_norm = config.engine.zero_stage == 0 and precision == "fp32"
        self._scales_loss, self._min_loss_scale = precision == "fp16", config.engine.min_loss_scale
        self._should_skip = should_skip
        select(config.engine.kernels, config.engine.kernels_folder)
        compiled = is_compiled(next(model.parameters()))
        if compiled and config.engine.zero_stage == 3:
            set_z3_leaf_modules(model, [Layer])  # a compiled layer reads the parameters of its submodules
        split = split_batch(config.train, world.size)
        options = deepspeed_config(config.train, config.engine, split, precision, world.local_size)
        self._flat = FlatAdamW(model, config) if compiled and self._computes_norm else None
        if self._flat is not None:
            options["gradient_clipping"] = 0.0  # `FlatAdamW` clips
        self._adam = self._flat or make_optimizer(model, config)
        self._adam.should_skip = should_skip
        try:
            # One of its optimizers prints its memory.
            with wrapping_without_values(model), redirect_stdout(StringIO()):
                self.deepspeed, self.optimizer, _, _ = deepspeed.initialize(
                    model=model, optimizer=self._adam, config=options, dist_init_required=False
                )
        except ValidationError as error:
            raise UsageError(explain_rejected(error)) from error
        if self._flat is not None:
            # With one rank DeepSpeed would copy every gradient twice. `FlatAdamW` frees the gradients.
            self.deepspeed.enable_backward_allreduce = world.size > 1
            self.deepspeed.zero_grad = lambda: None

    def step(
        self, micro_batches: Sequence[Batch], lr: float, layers: LayerStatistics | None = None
    ) -> StepResult:
        """Forward and backward over this rank's micro-batches, then one optimizer step.

        Each summed loss is divided by its number of predictions in the whole global batch, so the gradient
        is that of the global mean however the batch is split. `layers`, if given, observes the passes.

        Raises:
            DivergedError: fp16 gradients overflow at `engine.min_loss_scale`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group[LR_SCALE]
        with layers.observing() if layers else nullcontext():
            losses = self._forward_backward(micro_batches)
        if layers:
            layers.read_gradients(self._loss_scale() or 1.0)
        return self._update(losses, layers.values() if layers else {})

    def _forward_backward(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        """Accumulate gradients; the losses of the global batch, in nats per prediction.

        The host never waits for the device between passes: all numbers stay there until the end.
        """
        counts = self._global_counts(micro_batches)
        divisors = [count.float() for count in counts.values()]
        # DeepSpeed averages over ranks and micro-batches; this undoes it.
        scale = self.world.size * len(micro_batches)
        sums = torch.zeros(len(counts), dtype=torch.float64, device=self.world.device)
        for number, batch in enumerate(micro_batches, start=1):
            losses = self.deepspeed(batch)
            terms = [losses[name] for name in counts]
            loss = sum(term / divisor for term, divisor in zip(terms, divisors, strict=True))
            self.deepspeed.backward(loss * scale)
            sums += torch.stack([term.detach().double() for term in terms])
            if number < len(micro_batches):
                self.deepspeed.step()  # advances DeepSpeed's count of micro-batches, changes no weight
        means = self.world.sum_on_device(sums) / torch.stack(list(counts.values()))
        return dict(zip(counts, means.tolist(), strict=True))

    def _update(self, losses: Mapping[str, float], layers: LayerValues) -> StepResult:
        """Reduce and clip the gradients and update the weights, unless the step is skipped."""
        loss, scale = sum(losses.values()), self._loss_scale()
        own_norm = None
        if self._computes_norm:
            own_norm = self._fp32_gradient_norm() if self._flat is None else self._flat.clip_gradients()
        self._adam.begin_step(loss, lambda: self._reduced_norm() if own_norm is None else own_norm)
        try:
            self.deepspeed.step()
        except Exception as error:  # DeepSpeed's loss scaler raises a bare one
            if "loss scale already at minimum" in str(error):
                raise self._diverged_at_minimum_scale() from error
            raise
        finally:
            self._adam.end_step()
        if self._adam.decided:
            norm = self._reduced_norm() if own_norm is None else own_norm
            return StepResult(losses, norm, self._adam.skip_reason, scale, layers=layers)
        # DeepSpeed did not come to the update: the gradients are not finite.
        if self._scales_loss and math.isfinite(loss):
            if scale is not None and scale <= self._min_loss_scale:
                raise self._diverged_at_minimum_scale()
            reason = f"gradients overflow at loss scale {scale:g}"
            return StepResult(losses, math.inf, reason, scale, overflowed=True, layers=layers)
        skip_reason = self._should_skip(loss, math.inf) if self._should_skip else None
        return StepResult(
            losses, math.inf, skip_reason or "gradient norm is not finite", scale, layers=layers
        )

    def _loss_scale(self) -> float | None:
        return float(self.deepspeed.optimizer.loss_scale) if self._scales_loss else None

    def _reduced_norm(self) -> float:
        """Of the averaged gradients; each of DeepSpeed's optimizers stores it before it updates."""
        return float(self.deepspeed.optimizer._global_grad_norm)

    def _diverged_at_minimum_scale(self) -> DivergedError:
        return DivergedError(
            f"training diverged: fp16 gradients overflow at the smallest loss scale "
            f"({self._min_loss_scale}); the last checkpoint is kept. Try engine.precision=bf16, or a lower "
            "train.lr"
        )

    def _global_counts(self, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
        """The predictions of the whole global batch by the name of their loss, () float64 on the device."""
        local: dict[str, Tensor] = {}
        for batch in micro_batches:
            for name, count in self.model.num_predictions(batch).items():  # type: ignore[operator]
                local[name] = local.get(name, 0.0) + count.double()
        totals = self.world.sum_on_device(torch.stack(list(local.values())))
        return dict(zip(local, totals.unbind(), strict=True))

    def _fp32_gradient_norm(self) -> float:
        """ZeRO 0 in fp32 keeps no norm; the gradients are already averaged over the ranks here."""
        return float(
            torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        )
