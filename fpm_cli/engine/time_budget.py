"""A wall-clock budget: the whole learning rate schedule in the steps that there is time for.

Training that must end early does best if its learning rate has decayed by then as far as it would have
(Li, Yumer and Ramanan, "Budgeted Training", ICLR 2020). So the schedule is evaluated at a *position* from 0
to `train.steps` that advances faster than the steps do: warm-up, peak and decay keep their shares. The
number of steps that there is time for is measured, and decided again whenever a tenth of the remaining time
has passed; each decision spreads the rest of the schedule over the remaining steps, so the rate never jumps.
`budget.json` keeps the decisions: steps that a resumed run trains again have the same rates.

`inverse-sqrt` and `constant` do not decay to `min_lr` by themselves; under a budget their last fifth is a
linear cool-down (Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
Durations", 2024).
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.schedule import learning_rate
from fpm_cli.errors import DamagedError
from fpm_cli.files import replace_text
from fpm_cli.runs.run import Run

COOL_DOWN = 0.2  # of the schedule
MIN_MEASURED_STEPS = 3  # of a launch, before the number of steps is decided; the first is slower
MARGIN, MIN_MARGIN_SECONDS = 0.02, 4.0  # of the budget, reserved for what follows the last save
ASSUMED_SAVE_BYTES_PER_SECOND = 1e8  # until a save was measured


@dataclass(frozen=True)
class Decision:
    """After `step` steps, at `position` of the schedule, `last_step` became the last one."""

    step: int
    position: float
    last_step: int


class TimeBudget:
    """A run's last step and its learning rates, with `train.budget_seconds` or without.

    The main rank measures and proposes, every rank follows. `began` is time.time() when this launch began;
    the seconds of earlier launches are in the manifest.
    """

    def __init__(self, run: Run, config: RunConfig, first_step: int, began: float, *, is_main_process: bool):
        self.train, self.is_main_process = config.train, is_main_process
        self.limit = self.train.budget_seconds
        self._saves_in_background = config.engine.async_save
        self._path = run.path / "budget.json"
        self._decisions = [Decision(0, 0.0, self.train.steps), *self._read()]
        self._step = self._first_step = first_step
        self._spent = float(sum(launch.seconds for launch in run.manifest().launches))
        self._spent += max(0.0, time.time() - began)
        self._started = time.monotonic()
        self._last_decision = (first_step, self._started, math.inf)  # step, time and seconds left
        self._longest = dict[str, float]()
        self._assumed_save_seconds = 16 * count_parameters(config) / ASSUMED_SAVE_BYTES_PER_SECOND

    @property
    def last_step(self) -> int:
        """The step that ends the run, as decided up to now."""
        return self._decision(self._step).last_step

    def learning_rate(self, step: int) -> float:
        """That of the optimizer step after `step` steps: a function of it and of the decisions before it."""
        if self.limit is None:
            return learning_rate(self.train, step)
        position = self._position(step)
        lr = learning_rate(self.train, position)
        if self.train.schedule not in ("inverse-sqrt", "constant"):
            return lr
        left = 1 - position / self.train.steps
        return self.train.min_lr + (lr - self.train.min_lr) * min(1.0, left / COOL_DOWN)

    @contextmanager
    def timing(self, activity: str) -> Iterator[None]:
        """Measure a validation, or a save in the foreground: time is reserved for one more of each."""
        started = time.monotonic()
        yield
        if activity != "save" or not self._saves_in_background:
            seconds = time.monotonic() - started
            self._longest[activity] = max(self._longest.get(activity, 0.0), seconds)

    def propose_last_step(self, step: int) -> int:
        """The last step that the remaining time allows, after `step` steps; the main rank calls this."""
        if self.limit is None:
            return self.last_step
        now, trained = time.monotonic(), step - self._first_step
        decided_step, decided_at, left_then = self._last_decision
        pace = max((now - self._started) / trained, (now - decided_at) / (step - decided_step))
        left = self.limit - self._spent - (now - self._started) - self._reserve(pace)
        if left < pace:
            return step
        is_recent = left > 0.9 * left_then and left > 10 * pace
        if trained < MIN_MEASURED_STEPS or is_recent or step < self._decisions[-1].step:
            return self.last_step
        self._last_decision = (step, now, left)
        return min(self.train.steps, step + math.floor(left / pace))

    def set_last_step(self, step: int, last_step: int) -> bool:
        """Adopt what the main rank proposed after `step` steps; whether `step` is the last one."""
        self._step = step
        if step > self._decisions[-1].step and last_step != self.last_step:
            self._decisions.append(Decision(step, self._position(step), last_step))
            if self.is_main_process:
                text = json.dumps([asdict(decision) for decision in self._decisions[1:]], indent=1)
                replace_text(self._path, text + "\n")
        return step >= min(last_step, self.last_step)

    def rewind(self, step: int) -> None:
        """Continue from `step`; the pace is measured from here."""
        self._step = step
        self._last_decision = (step, time.monotonic(), math.inf)

    def _reserve(self, pace: float) -> float:
        """Seconds for the last evaluation and save, and for the process to end."""
        assert self.limit
        forward = pace / 3 * self.train.eval_samples / self.train.global_batch  # a third of a training step
        validation = self._longest.get("validation", forward)
        save = self._longest.get("save", self._assumed_save_seconds)
        return validation + save + max(MIN_MARGIN_SECONDS, MARGIN * self.limit)

    def _decision(self, step: int) -> Decision:
        """The one in force after `step` steps."""
        return next(decision for decision in reversed(self._decisions) if decision.step <= step)

    def _position(self, step: int) -> float:
        decision = self._decision(step)
        share = (step - decision.step) / max(1, decision.last_step - decision.step)
        return decision.position + (self.train.steps - decision.position) * min(1.0, share)

    def _read(self) -> list[Decision]:
        if self.limit is None or not self._path.exists():
            return []
        try:
            return [Decision(**decision) for decision in json.loads(self._path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError) as error:
            raise DamagedError(f"{self._path}: {error}") from error
