"""The schedules of the three families, at the steps where their values are known."""

import pytest

from fpm_cli.config.resolve import resolve
from fpm_cli.engine.schedule import learning_rate


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("CPM-X-L", 0, 1.5e-4 / 3000),
        ("CPM-X-L", 2999, 1.5e-4),
        ("CPM-X-L", 3000, 1.5e-4),
        ("CPM-X-L", 3000 + 97_000 // 2, (1.5e-4 + 1e-5) / 2),
        ("CPM-X-L", 100_000, 1e-5),
        ("BERT-C", 10_000, 1e-4),
        ("BERT-C", 10_000 + 740_000 // 4, 0.75e-4),
        ("BERT-C", 750_000, 0.0),
        ("CPM-2-X-M", 9_999, 1e-3),
        ("CPM-2-X-M", 40_000 - 1, 0.5e-3),
    ],
)
def test_learning_rate(name: str, step: int, expected: float) -> None:
    train = resolve(name, environment={}).config.train
    assert learning_rate(train, step) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_wsd_is_constant_until_the_last_fifth_and_then_falls_linearly() -> None:
    assignments = ["train.schedule=wsd", "train.steps=1000", "train.warmup_steps=100", "train.min_lr=1e-5"]
    train = resolve("CPM-X-L", environment={}, assignments=assignments).config.train
    assert [learning_rate(train, step) for step in (100, 500, 800)] == [train.lr] * 3
    assert learning_rate(train, 900) == pytest.approx((train.lr + 1e-5) / 2)
    assert learning_rate(train, 1000) == pytest.approx(1e-5)


def test_a_shorter_wsd_run_has_the_longer_ones_rates_until_it_decays() -> None:
    def rates(steps: int) -> list[float]:
        assignments = ["train.schedule=wsd", f"train.steps={steps}", "train.warmup_steps=50"]
        train = resolve("CPM-X-L", environment={}, assignments=assignments).config.train
        return [learning_rate(train, step) for step in range(steps - train.decay_steps)]

    assert rates(1000)[: len(rates(400))] == rates(400)
