"""A wall-clock budget: the whole schedule is run through in the steps that there is time for.

Training that must end early does best if its learning rate has fallen by then as far as it would have
(Li, Yumer and Ramanan, "Budgeted Training", ICLR 2020). So the schedule is read at a *position* of 0 to
`train.steps` that moves faster than the steps do: warm-up, peak and decay keep their shares. How many
steps there is time for is measured, and decided anew whenever a tenth of the remaining time has passed;
each decision bends the way from the present position to the end, so the rate never jumps. `budget.json`
keeps the decisions: steps that a resumed run trains again have the same rates again.

`inverse-sqrt` and `constant` do not fall to `min_lr` by themselves; under a budget their last fifth is a
linear cool-down (Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
Durations", 2024).
"""

import json
import math
import time
from dataclasses import asdict, dataclass

from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.schedule import learning_rate
from fpm_cli.errors import DamagedError
from fpm_cli.files import replace_text
from fpm_cli.runs.run import Run

COOL_DOWN = 0.2  # of the schedule
FIRST_STEPS = 3  # of a launch, before its pace is believed; the first is slower than the rest
MARGIN, LEAST_MARGIN_SECONDS = 0.02, 4.0  # of the budget, kept back for what follows the last save
GUESSED_SAVE_BYTES_PER_SECOND = 1e8  # until a save was measured


@dataclass(frozen=True)
class Decision:
    """After `step` steps, at `position` of the schedule, the last step is to be `last_step`."""

    step: int
    position: float
    last_step: int


class Budget:
    """A run's steps and their learning rates, with `train.budget_seconds` or without.

    The leading rank measures and proposes, every rank follows. `began` is time.time() when this launch
    began; what the launches before it took is in the manifest.
    """

    def __init__(self, run: Run, config: RunConfig, first_step: int, began: float, *, is_main_process: bool):
        self.plan, self.is_main_process = config.train, is_main_process
        self.limit = self.plan.budget_seconds
        self._path = run.path / "budget.json"
        self._decisions = [Decision(0, 0.0, self.plan.steps), *self._read()]
        self._step = self._first_step = first_step
        self._spent = float(sum(launch["seconds"] for launch in run.manifest()["launches"]))
        self._spent += max(0.0, time.time() - began)
        self._started = time.monotonic()
        self._mark = (first_step, self._started, math.inf)  # step, time and time left at the last decision
        self._took = dict[str, float]()
        self._guessed_save = 16 * count_parameters(config) / GUESSED_SAVE_BYTES_PER_SECOND

    @property
    def last_step(self) -> int:
        """The step that ends the run, as decided up to now."""
        return self._decision(self._step).last_step

    def learning_rate(self, step: int) -> float:
        """That of the optimizer step after `step` steps: a function of it and of the decisions before it."""
        if self.limit is None:
            return learning_rate(self.plan, step)
        position = self._position(step)
        lr = learning_rate(self.plan, position)
        if self.plan.schedule not in ("inverse-sqrt", "constant"):
            return lr
        left = 1 - position / self.plan.steps
        return self.plan.min_lr + (lr - self.plan.min_lr) * min(1.0, left / COOL_DOWN)

    def took(self, what: str, seconds: float) -> None:
        """An evaluation, or a save, took this long; each comes once more at the end."""
        self._took[what] = max(self._took.get(what, 0.0), seconds)

    def propose(self, step: int) -> int:
        """The last step as the time left has it, after `step` steps; the leading rank calls this."""
        if self.limit is None:
            return self.last_step
        now, trained = time.monotonic(), step - self._first_step
        step_then, then, left_then = self._mark
        pace = max((now - self._started) / trained, (now - then) / (step - step_then))
        left = self.limit - self._spent - (now - self._started) - self._reserve(pace)
        if left < pace:
            return step
        lately = left > 0.9 * left_then and left > 10 * pace
        if trained < FIRST_STEPS or lately or step < self._decisions[-1].step:
            return self.last_step
        self._mark = (step, now, left)
        return min(self.plan.steps, step + math.floor(left / pace))

    def follow(self, step: int, last_step: int) -> bool:
        """Take up what the leading rank proposed after `step` steps: whether that was the last one."""
        self._step = step
        if step > self._decisions[-1].step and last_step != self.last_step:
            self._decisions.append(Decision(step, self._position(step), last_step))
            if self.is_main_process:
                text = json.dumps([asdict(decision) for decision in self._decisions[1:]], indent=1)
                replace_text(self._path, text + "\n")
        return step >= min(last_step, self.last_step)

    def go_back(self, step: int) -> None:
        """Training stands at `step` again; the pace is measured from here."""
        self._step = step
        self._mark = (step, time.monotonic(), math.inf)

    def _reserve(self, pace: float) -> float:
        """Seconds for the last evaluation and save, and for the process to end."""
        assert self.limit
        forward = pace / 3 * self.plan.eval_samples / self.plan.global_batch  # a third of a training step
        evaluation = self._took.get("evaluation", forward)
        save = self._took.get("save", self._guessed_save)
        return evaluation + save + max(LEAST_MARGIN_SECONDS, MARGIN * self.limit)

    def _decision(self, step: int) -> Decision:
        """The one in force once `step` steps are done."""
        return next(decision for decision in reversed(self._decisions) if decision.step <= step)

    def _position(self, step: int) -> float:
        decision = self._decision(step)
        share = (step - decision.step) / max(1, decision.last_step - decision.step)
        return decision.position + (self.plan.steps - decision.position) * min(1.0, share)

    def _read(self) -> list[Decision]:
        if self.limit is None or not self._path.exists():
            return []
        try:
            return [Decision(**decision) for decision in json.loads(self._path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError) as error:
            raise DamagedError(f"{self._path}: {error}") from error
