"""The pure detector and the guard: planted spikes are found, noise is not taken for one, both resume."""

import math
import random

import pytest

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import TrainConfig
from fpm_cli.engine.deepspeed_engine import StepResult
from fpm_cli.engine.spikes import MOST_REWINDS, SpikeDetector, SpikeGuard, SpikeState
from fpm_cli.errors import DivergedError

WINDOW = 128


def plan(*assignments: str) -> TrainConfig:
    return resolve("CPM-X-S", proxy=True, environment={}, assignments=assignments).config.train


def curve(steps: int, rng: random.Random) -> list[tuple[float, float]]:
    """A loss that falls with noise, and a gradient norm with the lognormal tail that real ones have."""
    return [
        (2.5 + 3.5 * math.exp(-step / 400) + rng.gauss(0, 0.08), math.exp(rng.gauss(0.3, 0.2)))
        for step in range(steps)
    ]


def alarms(series: list[tuple[float, float]], detector: SpikeDetector) -> list[int]:
    found = []
    for step, (loss, norm) in enumerate(series):
        if detector.judge(loss, norm):
            found.append(step)
        else:
            detector.accept(loss, norm)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_planted_spikes_are_found_and_nearly_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    series = curve(3000, rng)
    planted = sorted(rng.sample(range(WINDOW, 3000), 30))
    for number, step in enumerate(planted):
        loss, norm = series[step]
        # 6 sigma of the window include the fall of the loss within it: at most 0.35 nat early on
        series[step] = (loss + 3.0, norm) if number % 2 else (loss, 40 * norm)
    found = alarms(series, SpikeDetector(plan(), SpikeState()))
    assert set(planted) <= set(found)
    assert len(set(found) - set(planted)) < 0.01 * len(series)


@pytest.mark.parametrize("seed", range(5))
def test_under_one_percent_of_a_noisy_curve_is_alarming(seed: int) -> None:
    assert len(alarms(curve(5000, random.Random(100 + seed)), SpikeDetector(plan(), SpikeState()))) < 50


def test_a_curve_without_noise_raises_no_alarm_by_a_hairs_breadth() -> None:
    flat = [(2.0, 1.0)] * WINDOW + [(2.05, 1.05)] * 10
    assert alarms(flat, SpikeDetector(plan(), SpikeState())) == []


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, -1.0)])
def test_what_is_not_finite_is_refused_from_the_first_step_even_without_detection(
    loss: float, norm: float
) -> None:
    detector = SpikeDetector(plan("train.spike_sigmas=0"), SpikeState())
    assert "not finite" in str(detector.judge(loss, norm))
    assert detector.judge(1e9, 1e9) is None


def result(loss: float, skipped: str | None = None, *, overflowed: bool = False) -> StepResult:
    return StepResult({"lm": loss}, 1.0, skipped, overflowed=overflowed)


def test_skips_in_a_row_lead_back_and_past_their_batches_until_that_does_not_help() -> None:
    guard = SpikeGuard(plan("train.spike_patience=2"), SpikeState())
    at_ten = SpikeState(losses=(1.0,))
    for tries in range(1, MOST_REWINDS + 1):
        assert not guard.settle(13, result(2.0))
        assert not guard.settle(14, result(9.0, "loss"))
        assert not guard.calm
        assert guard.settle(15, result(9.0, "loss"))
        assert "went back from step 15" in guard.go_back(15, 10, at_ten)
        assert guard.passed_over == 5 * tries and guard.snapshot().losses == (1.0,)
    guard.settle(14, result(9.0, "loss"))
    with pytest.raises(DivergedError, match="did not help"):
        guard.go_back(15, 10, at_ten)


def test_gradient_norms_that_stay_up_under_a_calm_loss_are_a_new_level() -> None:
    guard = SpikeGuard(plan(), SpikeState(losses=(2.0,) * WINDOW, gradient_norms=(1.0,) * WINDOW))
    skipped = []
    for step in range(1, 41):
        why = guard.judge(2.0, 8.0)
        assert not guard.settle(step, StepResult({"causal": 2.0}, 8.0, why))
        skipped.append(why is not None)
    assert skipped[:3] == [True, True, False] and not any(skipped[20:])
    assert guard.judge(9.0, 8.0) is not None  # the loss still counts


def test_without_a_checkpoint_or_without_detection_training_ends() -> None:
    with pytest.raises(DivergedError, match="before the first checkpoint"):
        SpikeGuard(plan(), SpikeState()).go_back(3, None, SpikeState())
    with pytest.raises(DivergedError, match=r"lower train\.lr"):
        SpikeGuard(plan("train.spike_sigmas=0"), SpikeState()).settle(3, result(math.nan, "not finite"))


def test_the_search_for_a_loss_scale_is_no_spike() -> None:
    guard = SpikeGuard(plan("train.spike_patience=1"), SpikeState())
    assert not guard.settle(1, result(5.0, "gradients overflow", overflowed=True))
    assert guard.calm


def test_a_guard_made_from_a_snapshot_decides_as_the_one_that_went_on() -> None:
    series = curve(600, random.Random(3))
    series[400] = series[401] = (9.0, 50.0)
    through = SpikeGuard(plan(), SpikeState())
    for step, (loss, norm) in enumerate(series[:300]):
        through.settle(step, StepResult({"lm": loss}, norm, through.judge(loss, norm)))
    stored = SpikeState.model_validate_json(through.snapshot().model_dump_json())
    resumed = SpikeGuard(plan(), stored)
    for step, (loss, norm) in enumerate(series[300:], start=300):
        verdicts = [guard.judge(loss, norm) for guard in (through, resumed)]
        assert verdicts[0] == verdicts[1]
        for guard in (through, resumed):
            guard.settle(step, StepResult({"lm": loss}, norm, verdicts[0]))
    assert through.snapshot() == resumed.snapshot()
