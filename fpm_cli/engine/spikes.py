"""Loss spikes: a step that stands out is not taken; when it does not stop, training goes back and round them.

A step's loss and gradient norm are known before any weight changes. Where either is not finite, or lies
more than `train.spike_sigmas` standard deviations above the mean of the last `train.spike_window` steps,
the update is skipped (OLMo-core skips beyond 6 sigma of 128 steps; allenai/OLMo-core,
src/olmo_core/optim/skip_step_optimizer.py). After `train.spike_patience` skips in a row the state goes back
to the last checkpoint and trains on with the batches after the spike (Chowdhery et al. 2022, PaLM, section
5.1). Gradient norms that stay up under a loss that does not are a new level, not a spike: the last step
before going back is judged by its loss alone, for clipping bounds it. Everything follows from numbers that
all ranks share and that a checkpoint holds, so that ranks agree and a resumed run decides as the
uninterrupted one does.
"""

import math
from collections import deque

from fpm_cli.checkpoints.checkpoint import SpikeState
from fpm_cli.config.schema import TrainConfig
from fpm_cli.engine.deepspeed_engine import StepResult
from fpm_cli.errors import DivergedError

# A window of nearly equal values has next to no deviation; what is less than this share of the mean away
# for each sigma is no spike.
LEAST_DEVIATION = 0.01
MOST_REWINDS = 3  # to one checkpoint
ADVICE = (
    "the last checkpoint is kept. Try a lower train.lr or a longer train.warmup_steps in a new run, or, "
    "where it is the data that changes, a higher train.spike_sigmas"
)


class Window:
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
        deviation = max(math.sqrt(variance), LEAST_DEVIATION * abs(mean))
        return (value - mean) / deviation if deviation else 0.0


class SpikeDetector:
    """Judges loss and gradient norm; the values of skipped steps do not enter the windows."""

    def __init__(self, train: TrainConfig, state: SpikeState):
        self.sigmas = train.spike_sigmas
        self.loss = Window(train.spike_window, state.losses)
        self.gradient_norm = Window(train.spike_window, state.gradient_norms)

    def judge(self, loss: float, gradient_norm: float, *, by_loss_alone: bool = False) -> str | None:
        """Why this step should not be taken, or None. DeepSpeed gives -1 for a norm that is not finite."""
        series = {"loss": (self.loss, loss), "gradient norm": (self.gradient_norm, gradient_norm)}
        for name, (window, value) in series.items():
            above = window.sigmas_above(value)
            if above == math.inf or value < 0:
                return f"{name} is not finite"
            if self.sigmas and above > self.sigmas and not (by_loss_alone and window is self.gradient_norm):
                size = window.values.maxlen
                return f"{name} {value:.4g} is {above:.1f} sigma above the mean of {size} steps"
        return None

    def accept(self, loss: float, gradient_norm: float) -> None:
        """A step that was taken enters the windows."""
        self.loss.values.append(loss)
        self.gradient_norm.values.append(gradient_norm)


class SpikeGuard:
    """What to do about spikes, step after step; every rank has one and all do the same."""

    def __init__(self, train: TrainConfig, state: SpikeState):
        self.train = train
        self.passed_over = state.batches_passed_over
        self.rewinds: list[int] = []  # the checkpoints gone back to, since this launch
        self._in_a_row = state.skipped_in_a_row
        self._detector = SpikeDetector(train, state)

    def judge(self, loss: float, gradient_norm: float) -> str | None:
        """As `SpikeDetector.judge`, by the loss alone where one more skip would lead back."""
        last_but_one = max(1, self.train.spike_patience - 1)
        return self._detector.judge(loss, gradient_norm, by_loss_alone=self._in_a_row >= last_but_one)

    def settle(self, step: int, result: StepResult) -> bool:
        """Take note of what became of a step; whether to go back to a checkpoint.

        Raises:
            DivergedError: detection is off, and the loss or the gradient is not finite.
        """
        if result.skipped is None:
            self._in_a_row = 0
            self._detector.accept(result.loss, result.gradient_norm)
        elif not result.overflowed:  # a loss scale that is looked for is no spike
            if not self.train.spike_sigmas:
                raise DivergedError(f"training diverged at step {step}: {result.skipped}; {ADVICE}")
            self._in_a_row += 1
        return self._in_a_row >= self.train.spike_patience

    @property
    def calm(self) -> bool:
        """Whether the last step was taken: a state in the midst of a spike is not worth going back to."""
        return not self._in_a_row

    def go_back(self, step: int, checkpoint_step: int | None, state: SpikeState) -> str:
        """Stand at a checkpoint that held `state` again, past the batches up to `step`; says so.

        Raises:
            DivergedError: there is no checkpoint, or going back to it has not helped.
        """
        skips = f"{self._in_a_row} steps in a row were spikes or not finite"
        if checkpoint_step is None:
            raise DivergedError(
                f"training diverged at step {step}: {skips}, before the first checkpoint; {ADVICE}"
            )
        tries = self.rewinds.count(checkpoint_step)
        if tries >= MOST_REWINDS:
            raise DivergedError(
                f"training diverged at step {step}: {skips}, and going back to step {checkpoint_step} "
                f"{tries} times, past their batches, did not help; {ADVICE}"
            )
        self.rewinds.append(checkpoint_step)
        self.passed_over += step - checkpoint_step
        self._in_a_row = 0
        self._detector = SpikeDetector(self.train, state)
        return (
            f"went back from step {step}: {skips}; their {step - checkpoint_step} batches are "
            f"passed over, {self.passed_over} in all"
        )

    def snapshot(self) -> SpikeState:
        """For the checkpoint of this moment."""
        return SpikeState(
            losses=tuple(self._detector.loss.values),
            gradient_norms=tuple(self._detector.gradient_norm.values),
            batches_passed_over=self.passed_over,
            skipped_in_a_row=self._in_a_row,
        )
