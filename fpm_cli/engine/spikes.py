"""Loss spikes: which optimizer steps are skipped, and when training rewinds to a checkpoint.

The loss and the gradient norm of a step are known before any weight changes. Where either is not finite, or
is more than `train.spike_sigmas` standard deviations above the mean of the last `train.spike_window` steps,
the update is skipped (OLMo-core skips beyond 6 sigma of 128 steps; allenai/OLMo-core,
src/olmo_core/optim/skip_step_optimizer.py). After `train.spike_patience` skips in a row the state is loaded
from the last checkpoint and training continues with the batches after the spike (Chowdhery et al. 2022, PaLM,
section 5.1). Gradient norms that stay high while the loss does not are a new level, not a spike: the last
step before a rewind is decided by its loss alone, and clipping bounds it. Everything follows from numbers
that all ranks share and that a checkpoint holds, so that ranks agree and a resumed run decides as the
uninterrupted one does.
"""

import math
from collections import deque

from fpm_cli.checkpoints.checkpoint import CheckpointState, SpikeState
from fpm_cli.config.schema import TrainConfig
from fpm_cli.engine.deepspeed_engine import StepResult
from fpm_cli.errors import DivergedError

# Of the mean: nearly equal values have next to no deviation, and noise would look like spikes.
MIN_RELATIVE_DEVIATION = 0.01
MAX_REWINDS = 3  # to one checkpoint
ADVICE = (
    "the last checkpoint is kept. Try a lower train.lr or a longer train.warmup_steps in a new run, or, "
    "where it is the data that changes, a higher train.spike_sigmas"
)


class RollingWindow:
    """The last values of one series, and how far a new one is above them."""

    def __init__(self, size: int, values: tuple[float, ...] = ()):
        self.values = deque(values, maxlen=size)

    def sigmas_above(self, value: float) -> float:
        """Standard deviations above the mean: 0 while the window is filled, infinity if it is not finite."""
        if not math.isfinite(value):
            return math.inf
        if len(self.values) < (self.values.maxlen or 0):
            return 0.0
        mean = math.fsum(self.values) / len(self.values)
        variance = math.fsum((v - mean) ** 2 for v in self.values) / len(self.values)
        deviation = max(math.sqrt(variance), MIN_RELATIVE_DEVIATION * abs(mean))
        return (value - mean) / deviation if deviation else 0.0


class SpikeDetector:
    """Compares loss and gradient norm with those of the last steps that were taken."""

    def __init__(self, train: TrainConfig, state: SpikeState):
        self.sigmas = train.spike_sigmas
        self.loss = RollingWindow(train.spike_window, state.losses)
        self.gradient_norm = RollingWindow(train.spike_window, state.gradient_norms)

    def find_spike(self, loss: float, gradient_norm: float, *, by_loss_alone: bool = False) -> str | None:
        """What is wrong with this step, or None. DeepSpeed gives -1 for a norm that is not finite."""
        series = {"loss": (self.loss, loss), "gradient norm": (self.gradient_norm, gradient_norm)}
        for name, (window, value) in series.items():
            above = window.sigmas_above(value)
            if above == math.inf or value < 0:
                return f"{name} is not finite"
            if self.sigmas and above > self.sigmas and not (by_loss_alone and window is self.gradient_norm):
                size = window.values.maxlen
                return f"{name} {value:.4g} is {above:.1f} sigma above the mean of {size} steps"
        return None

    def append(self, loss: float, gradient_norm: float) -> None:
        """Enter a step that was taken into the windows."""
        self.loss.values.append(loss)
        self.gradient_norm.values.append(gradient_norm)


class SkipStepPolicy:
    """Which steps to skip and when to rewind; every rank has one, and all decide the same.

    The optimizer asks `should_skip` during a step, the training loop calls `update` after it.
    """

    def __init__(self, train: TrainConfig):
        self.train = train
        self.skipped_batches = 0  # step k (counted from 1) trains on global batch k - 1 + this many
        self.rewinds: list[int] = []  # the checkpoints rewound to, since this launch
        self._skips_in_a_row = 0
        self._detector = SpikeDetector(train, SpikeState())

    def load_state(self, state: SpikeState) -> None:
        """Continue from the state in a checkpoint."""
        self.skipped_batches = state.skipped_batches
        self._skips_in_a_row = state.skipped_in_a_row
        self._detector = SpikeDetector(self.train, state)

    def state(self) -> SpikeState:
        """For a checkpoint."""
        return SpikeState(
            losses=tuple(self._detector.loss.values),
            gradient_norms=tuple(self._detector.gradient_norm.values),
            skipped_batches=self.skipped_batches,
            skipped_in_a_row=self._skips_in_a_row,
        )

    def should_skip(self, loss: float, gradient_norm: float) -> str | None:
        """Why to skip the step with this loss and gradient norm, or None.

        Where one more skip would lead to a rewind, the loss alone decides.
        """
        last_but_one = max(1, self.train.spike_patience - 1)
        by_loss_alone = self._skips_in_a_row >= last_but_one
        return self._detector.find_spike(loss, gradient_norm, by_loss_alone=by_loss_alone)

    def update(self, step: int, result: StepResult) -> None:
        """Take note of the result of a step.

        Raises:
            DivergedError: detection is off, and the loss or the gradient is not finite.
        """
        if result.skipped is None:
            self._skips_in_a_row = 0
            self._detector.append(result.loss, result.gradient_norm)
        elif not result.overflowed:  # the search for a loss scale is no spike
            if not self.train.spike_sigmas:
                raise DivergedError(f"training diverged at step {step}: {result.skipped}; {ADVICE}")
            self._skips_in_a_row += 1

    @property
    def is_stable(self) -> bool:
        """Whether the last step was taken; a state in the middle of a spike is not worth saving."""
        return not self._skips_in_a_row

    @property
    def should_rewind(self) -> bool:
        """Whether `train.spike_patience` steps in a row were skipped."""
        return self._skips_in_a_row >= self.train.spike_patience

    def rewind(self, step: int, checkpoint: CheckpointState | None) -> str:
        """Continue with the batches after those of step `step`; returns a message.

        Args:
            step: the last one of the spike.
            checkpoint: where to continue; None: at the initial weights.

        Raises:
            DivergedError: rewinding to it has not helped.
        """
        skips = f"{self._skips_in_a_row} steps in a row were spikes or not finite"
        first = checkpoint.step if checkpoint else 0
        tries = self.rewinds.count(first)
        if tries >= MAX_REWINDS:
            raise DivergedError(
                f"training diverged at step {step}: {skips}, and {tries} rewinds to step {first}, "
                f"each past the batches of the spike, did not help; {ADVICE}"
            )
        self.rewinds.append(first)
        self.skipped_batches += step - first
        self._skips_in_a_row = 0
        self._detector = SpikeDetector(self.train, checkpoint.spikes if checkpoint else SpikeState())
        return (
            f"rewound from step {step}{'' if checkpoint else ' to the initial weights'}: {skips}; their "
            f"{step - first} batches are skipped, "
            f"{self.skipped_batches} in all"
        )
