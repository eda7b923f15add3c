"""The detector and the policy: planted spikes are found, noise is not taken for one, both resume."""

import math
import random

import pytest

from fpm_cli.checkpoints.checkpoint import CheckpointState, SpikeState
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import TrainConfig
from fpm_cli.engine.deepspeed_engine import StepResult
from fpm_cli.engine.spikes import MAX_REWINDS, SkipStepPolicy, SpikeDetector
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
        if detector.find_spike(loss, norm):
            found.append(step)
        else:
            detector.append(loss, norm)
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
    assert "not finite" in str(detector.find_spike(loss, norm))
    assert detector.find_spike(1e9, 1e9) is None


def result(loss: float, skipped: str | None = None, *, overflowed: bool = False) -> StepResult:
    return StepResult({"lm": loss}, 1.0, skipped, overflowed=overflowed)


def checkpoint(step: int, state: SpikeState) -> CheckpointState:
    return CheckpointState(step=step, samples=0, world_size=1, zero_stage=1, spikes=state, shapes={})


def policy_with(train: TrainConfig, state: SpikeState) -> SkipStepPolicy:
    policy = SkipStepPolicy(train)
    policy.load_state(state)
    return policy


def test_skips_in_a_row_rewind_past_their_batches_until_that_does_not_help() -> None:
    policy = SkipStepPolicy(plan("train.spike_patience=2"))
    at_ten = checkpoint(10, SpikeState(losses=(1.0,)))
    for tries in range(1, MAX_REWINDS + 1):
        policy.update(13, result(2.0))
        assert policy.is_stable
        policy.update(14, result(9.0, "loss"))
        assert not policy.is_stable and not policy.should_rewind
        policy.update(15, result(9.0, "loss"))
        assert policy.should_rewind
        assert "rewound from step 15" in policy.rewind(15, at_ten)
        assert policy.skipped_batches == 5 * tries and policy.state().losses == (1.0,)
    policy.update(14, result(9.0, "loss"))
    with pytest.raises(DivergedError, match="did not help"):
        policy.rewind(15, at_ten)


def test_gradient_norms_that_stay_high_under_a_stable_loss_are_a_new_level() -> None:
    policy = policy_with(plan(), SpikeState(losses=(2.0,) * WINDOW, gradient_norms=(1.0,) * WINDOW))
    skipped = []
    for step in range(1, 41):
        reason = policy.should_skip(2.0, 8.0)
        policy.update(step, StepResult({"causal": 2.0}, 8.0, reason))
        assert not policy.should_rewind
        skipped.append(reason is not None)
    assert skipped[:3] == [True, True, False] and not any(skipped[20:])
    assert policy.should_skip(9.0, 8.0) is not None  # the loss still counts


def test_without_a_checkpoint_it_rewinds_to_the_initial_weights_until_that_does_not_help() -> None:
    policy = SkipStepPolicy(plan("train.spike_patience=1"))
    for tries in range(1, MAX_REWINDS + 1):
        policy.update(3, result(math.nan, "loss"))
        assert "rewound from step 3 to the initial weights" in policy.rewind(3, None)
        assert policy.skipped_batches == 3 * tries and not policy.state().losses
    policy.update(3, result(math.nan, "loss"))
    with pytest.raises(DivergedError, match="rewinds to step 0"):
        policy.rewind(3, None)


def test_without_detection_training_ends() -> None:
    with pytest.raises(DivergedError, match=r"lower train\.lr"):
        SkipStepPolicy(plan("train.spike_sigmas=0")).update(3, result(math.nan, "not finite"))


def test_the_search_for_a_loss_scale_is_no_spike() -> None:
    policy = SkipStepPolicy(plan("train.spike_patience=1"))
    policy.update(1, result(5.0, "gradients overflow", overflowed=True))
    assert policy.is_stable and not policy.should_rewind


def test_a_policy_with_the_state_of_a_checkpoint_decides_as_the_one_that_continued() -> None:
    series = curve(600, random.Random(3))
    series[400] = series[401] = (9.0, 50.0)
    through = SkipStepPolicy(plan())
    for step, (loss, norm) in enumerate(series[:300]):
        through.update(step, StepResult({"lm": loss}, norm, through.should_skip(loss, norm)))
    resumed = policy_with(plan(), SpikeState.model_validate_json(through.state().model_dump_json()))
    for step, (loss, norm) in enumerate(series[300:], start=300):
        reasons = [policy.should_skip(loss, norm) for policy in (through, resumed)]
        assert reasons[0] == reasons[1]
        for policy in (through, resumed):
            policy.update(step, StepResult({"lm": loss}, norm, reasons[0]))
    assert through.state() == resumed.state()


def test_the_state_in_checkpoints_of_earlier_versions_is_read() -> None:
    old = '{"losses": [2.5], "gradient_norms": [1.0], "batches_passed_over": 7, "skipped_in_a_row": 1}'
    assert policy_with(plan(), SpikeState.model_validate_json(old)).skipped_batches == 7
    state = CheckpointState.model_validate_json(
        '{"step": 3, "samples": 12, "world_size": 1, "zero_stage": 1, "validation_loss": 0.25, "shapes": {}}'
    )
    assert state.selection_metric == 0.25
