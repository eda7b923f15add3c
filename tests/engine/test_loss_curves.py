"""Loss curves with the compiled operators against those of PyTorch's own: 300 steps, three seeds.

Both implementations start from the same weights and read the same batches of a seed. Without dropout their
first steps coincide; later, training amplifies the differences of rounding. With dropout the masks differ,
and the difference must be within the noise between seeds.
"""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from tests.small_runs import metrics, tiny

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("compiled")]

STEPS, WINDOW, SEEDS = 300, 50, (1, 2, 3)
FIRST_STEPS = 30
PRESETS = ("CPM-X-S", "BERT-C", "CPM-2-X-S")
SETTINGS = (f"train.steps={STEPS}", "model.num_layers=4", "train.log_every=1", "engine.zero_stage=0")
STANDARD_ERRORS = 3.0  # of a difference of two means over three seeds, were they independent


def step_losses(run: Path, corpus: Path, preset: str, *settings: str) -> dict[int, float]:
    """Train, and the loss of each step."""
    flags = [*tiny(preset, *SETTINGS, *settings), "--corpus", str(corpus), "--out", str(run)]
    assert fpm(["-q", *flags]) == 0
    losses = metrics(run, "train")
    assert len(losses) == STEPS
    return losses


def window_means(run: Path, corpus: Path, preset: str, *settings: str) -> list[float]:
    """Train, and the mean losses of consecutive windows of steps."""
    losses = step_losses(run, corpus, preset, *settings)
    return [
        statistics.fmean(losses[first + step] for step in range(WINDOW))
        for first in range(1, STEPS + 1, WINDOW)
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_curves_with_dropout_differ_by_no_more_than_noise(
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    report: Callable[[str], None],
    preset: str,
) -> None:
    curves = {
        kernels: [
            window_means(
                tmp_path / f"{kernels}-{seed}",
                sample_corpora(preset),
                preset,
                *("model.dropout=0.1", f"engine.kernels={kernels}", f"train.seed={seed}"),
            )
            for seed in SEEDS
        ]
        for kernels in ("auto", "reference")
    }
    for window in range(STEPS // WINDOW):
        ours, theirs = ([curve[window] for curve in curves[kernels]] for kernels in curves)
        variance = (statistics.variance(ours) + statistics.variance(theirs)) / 2
        noise = (variance * 2 / len(SEEDS)) ** 0.5
        difference = statistics.fmean(ours) - statistics.fmean(theirs)
        report(
            f"loss curves: {preset}, steps {window * WINDOW + 1} to {(window + 1) * WINDOW}: compiled "
            f"{statistics.fmean(ours):.4f}, reference {statistics.fmean(theirs):.4f}, "
            f"difference {difference:+.4f}, standard error {noise:.4f}"
        )
        assert abs(difference) < STANDARD_ERRORS * noise
    first, *_, last = curves["auto"][0]
    assert last < first - 0.3, "a curve that falls, so that a difference could show"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_steps_without_dropout_coincide(
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    report: Callable[[str], None],
    preset: str,
) -> None:
    ours, theirs = (
        step_losses(
            tmp_path / kernels, sample_corpora(preset), preset, "model.dropout=0", f"engine.kernels={kernels}"
        )
        for kernels in ("auto", "reference")
    )
    largest = max(abs(ours[step] - theirs[step]) for step in range(1, FIRST_STEPS + 1))
    report(f"loss curves: {preset} without dropout: {FIRST_STEPS} steps differ by {largest:.1e} at most")
    assert largest < 1e-4
