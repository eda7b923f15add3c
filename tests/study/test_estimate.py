"""The estimate of a study adds up training, scoring and fine-tuning."""

from pathlib import Path

import pytest

from fpm_cli.accounting.flops import step_flops
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.study.estimate import (
    SECONDS_AFTER_TRAINING,
    FinetuningCost,
    Pace,
    estimate_study,
)
from fpm_cli.study.settings import StudySettings
from fpm_cli.study.study import Study

DEPTHS, SEEDS, STEPS = (2, 6), (1, 2, 3), 50
START_SECONDS, STEP_SECONDS = 2.0, 0.01  # per layer


def study() -> Study:
    assignments = ("train.eval_every=50", "train.eval_samples=64")
    config = resolve("BERT-E-S", proxy=True, environment={}, assignments=assignments).config
    settings = StudySettings(
        name="study",
        reference=config.model_dump(mode="json", exclude_none=True),
        corpus="corpus",
        depths=DEPTHS,
        num_heads=(4, 4),
        seeds=SEEDS,
        horizons=(float(STEPS),),
    )
    return Study(Path("study"), settings)


def step_seconds(config: RunConfig) -> float:
    return STEP_SECONDS * config.model.num_layers


def finetuning(config: RunConfig) -> FinetuningCost:
    return FinetuningCost(3.0 * config.model.num_layers, 0.5, 10**9)


def test_pretraining_is_steps_validations_and_the_start_of_two_commands() -> None:
    cells = study().cells({})
    found = estimate_study(cells, Pace(step_seconds, START_SECONDS, 128), num_jobs=1, num_processes=1)
    # A step has 64 sequences; two validations of 64 samples and the scoring of 128 are forward passes only.
    seconds = sum(len(SEEDS) * STEP_SECONDS * depth * (STEPS + (2 * 64 + 128) / 64 / 3) for depth in DEPTHS)
    seconds += len(cells) * (2 * START_SECONDS + SECONDS_AFTER_TRAINING)
    assert found.hours == pytest.approx(seconds / 3600)
    assert found.model_flops == sum(STEPS * step_flops(cell.config).model for cell in cells)
    assert (found.runs, found.finetunings, found.price) == (6, 0, None)


def test_fine_tunings_are_added_and_paid() -> None:
    cells, pace = study().cells({}), Pace(step_seconds, START_SECONDS, 128)
    plain = estimate_study(cells, pace, num_jobs=1, num_processes=1)
    with_task = Pace(step_seconds, START_SECONDS, 128, finetuning)
    tuned = estimate_study(cells, with_task, num_jobs=1, num_processes=1, price_per_device_hour=2.0)
    more = 3600 * (tuned.hours - plain.hours)
    each = 2 * START_SECONDS + SECONDS_AFTER_TRAINING + 0.5
    assert more == pytest.approx(sum(len(SEEDS) * (each + 3.0 * depth) for depth in DEPTHS))
    assert tuned.model_flops - plain.model_flops == 6 * 10**9
    assert tuned.finetunings == 6
    assert tuned.price == pytest.approx(2.0 * tuned.device_hours)


def test_jobs_side_by_side_share_the_time() -> None:
    cells, pace = study().cells({}), Pace(step_seconds, START_SECONDS, 128)
    one = estimate_study(cells, pace, num_jobs=1, num_processes=1)
    two = estimate_study(cells, pace, num_jobs=2, num_processes=1)
    assert two.hours == pytest.approx(one.hours / 2)
    assert two.device_hours == pytest.approx(one.device_hours)
