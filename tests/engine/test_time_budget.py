"""A wall-clock budget: on a clock of our own for the rates, on the real one for the time."""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine import time_budget as module
from fpm_cli.engine.schedule import learning_rate
from fpm_cli.engine.time_budget import TimeBudget
from fpm_cli.runs.run import Run
from tests.run_folder import launch
from tests.small_runs import finish, start, tiny

STEPS, SECONDS, PEAK, FLOOR = 1000, 600.0, 1e-3, 1e-5


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def configured(schedule: str, seconds: float | None = SECONDS) -> RunConfig:
    values = [
        f"train.schedule={schedule}",
        f"train.steps={STEPS}",
        "train.warmup_steps=100",
        f"train.lr={PEAK}",
    ]
    values += [f"train.min_lr={FLOOR}", *([f"train.budget_seconds={seconds}"] if seconds else [])]
    return resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config


def trained(
    run: Run,
    config: RunConfig,
    clock: Clock,
    step_seconds: Callable[[int], float],
    *,
    first_step: int = 0,
    until: int = STEPS,
) -> dict[int, float]:
    """The rate of each step up to the one that ends the run."""
    budget = TimeBudget(run, config, first_step, clock.now, is_main_process=True)
    rates = {}
    for step in range(first_step + 1, until + 1):
        rates[step] = budget.learning_rate(step - 1)
        clock.now += step_seconds(step)
        if budget.set_last_step(step, budget.propose_last_step(step)):
            break
    return rates


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "manifest.json").write_text('{"launches": []}')
    return Run(tmp_path)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "inverse-sqrt", "constant"])
def test_the_whole_schedule_is_run_through_in_the_time(run: Run, clock: Clock, schedule: str) -> None:
    rates = trained(run, configured(schedule), clock, lambda step: 4.0 if step == 1 else 2.0)
    assert 0.9 * SECONDS < clock.now < SECONDS
    assert len(rates) < STEPS / 3
    assert max(rates.values()) > 0.9 * PEAK, "the warm-up is shortened too"
    assert rates[max(rates)] < FLOOR + 0.05 * PEAK
    peak = max(rates, key=lambda step: rates[step])
    assert peak < 0.25 * len(rates)
    falling = [rates[step] for step in range(peak, len(rates) + 1)]
    assert all(later <= earlier for earlier, later in pairwise(falling))
    assert max(abs(later - earlier) for earlier, later in pairwise(rates.values())) < 0.1 * PEAK


@pytest.mark.parametrize("slower", [3.0, 0.3])
def test_a_pace_that_changes_half_way_still_ends_decayed_within_the_time(
    run: Run, clock: Clock, slower: float
) -> None:
    rates = trained(run, configured("cosine"), clock, lambda step: 2.0 if step < 140 else 2.0 * slower)
    assert 0.8 * SECONDS < clock.now < SECONDS
    assert rates[max(rates)] < FLOOR + 0.02 * PEAK


def test_enough_time_changes_nothing(run: Run, clock: Clock) -> None:
    config = configured("cosine")
    rates = trained(run, config, clock, lambda _: 0.3)
    assert len(rates) == STEPS
    assert rates == {
        step: pytest.approx(learning_rate(config.train, step - 1), rel=1e-12) for step in range(1, STEPS + 1)
    }


def test_without_a_budget_the_schedule_is_as_it_was(run: Run, clock: Clock) -> None:
    config = configured("linear", None)
    rates = trained(run, config, clock, lambda _: 1e6)
    assert rates == {step: learning_rate(config.train, step - 1) for step in range(1, STEPS + 1)}
    assert not (run.path / "budget.json").exists()


def test_steps_that_are_trained_again_have_the_same_rates(run: Run, clock: Clock) -> None:
    config = configured("cosine")
    before = trained(run, config, clock, lambda step: 2 + step % 7 / 7, until=150)
    decided = json.loads((run.path / "budget.json").read_text())
    launches = [launch(0, 150, clock.now)]
    (run.path / "manifest.json").write_text(json.dumps({"launches": launches}))
    again = trained(run, config, clock, lambda _: 3.0, first_step=110)  # from a checkpoint, and slower
    assert decided[-1]["step"] > 125
    same = range(111, decided[-1]["step"] + 1)
    assert [again[step] for step in same] == [before[step] for step in same]
    assert again[max(again)] < FLOOR + 0.05 * PEAK
    assert SECONDS * 0.9 < clock.now < SECONDS


def test_a_budget_that_is_spent_ends_after_one_step(run: Run, clock: Clock) -> None:
    (run.path / "manifest.json").write_text(json.dumps({"launches": [launch(0, 1, SECONDS)]}))
    assert list(trained(run, configured("cosine"), clock, lambda _: 2.0)) == [1]


def test_a_real_run_ends_in_time_finished_and_decayed(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run, seconds = tmp_path / "run", 20
    flags = [*tiny("CPM-X-S", "train.steps=1000000"), "--corpus", str(sample_corpora("CPM-X-S"))]
    began = time.monotonic()
    status, said = finish(start([*flags, "--budget", f"{seconds}s", "--out", str(run)]))
    assert status == 0, said
    assert time.monotonic() - began < seconds + 30  # busy; the clock of our own holds it to the letter
    assert json.loads((run / "manifest.json").read_text())["state"] == "finished"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows if row["kind"] == "train"]
    assert rates[-1] < 0.15 * max(rates)  # min_lr is a tenth of the peak
    assert (run / "latest").read_text() == f"step-{len(rates)}\n"
