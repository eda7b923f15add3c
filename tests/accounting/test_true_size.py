"""The plan beside resident memory at full width measured by `benchmarks.true_size` on two ranks."""

import argparse

import pytest

from benchmarks.true_size import GIB, planned_peaks, settings_of
from fpm_cli.config.resolve import resolve

PHASES = ("starting", "training", "saving", "loading")
SMALL_VOCABULARY = ("model.vocab_size=2048", "train.global_batch=2")
# Preset, layers, precision, ZeRO stage, offload; GiB of the larger process in each phase (docs/true_size.md).
MEASURED = [
    ("CPM-X-L", 1, "fp32", 1, "none", (1.86, 3.41, 4.27, 2.43)),
    ("CPM-X-L", 1, "fp32", 1, "optimizer", (3.02, 4.55, 5.44, 3.59)),
    ("CPM-X-L", 1, "fp32", 2, "none", (1.86, 3.43, 4.30, 2.43)),
    ("CPM-X-L", 1, "fp32", 3, "none", (1.82, 4.07, 4.94, 1.91)),
    ("CPM-X-L", 1, "fp32", 3, "parameters", (2.12, 4.41, 5.25, 2.20)),
    ("CPM-X-L", 3, "fp32", 1, "none", (3.32, 5.47, 7.27, 4.48)),
    ("CPM-X-L", 3, "fp32", 2, "none", (3.33, 6.56, 8.30, 4.48)),
    ("CPM-X-L", 3, "fp32", 3, "none", (2.73, 6.67, 8.44, 3.46)),
    ("CPM-2-X-M", 2, "bf16", 1, "none", (2.99, 5.76, 8.39, 4.74)),
    ("CPM-2-X-M", 2, "bf16", 2, "none", (3.00, 5.74, 8.37, 4.74)),
    ("CPM-2-X-M", 2, "bf16", 3, "none", (2.62, 6.14, 8.79, 4.00)),
    # Saved without a copy, for which this machine had no room.
    ("CPM-2-X-M", 2, "bf16", 2, "optimizer", (4.51, 6.65, None, 6.26)),
    ("CPM-2-X-M", 2, "bf16", 3, "parameters", (3.51, 7.01, None, 4.88)),
]


@pytest.mark.parametrize(("preset", "layers", "precision", "stage", "offload", "measured"), MEASURED)
def test_the_plan_is_within_a_tenth_of_the_kernels_peaks(
    preset, layers, precision, stage, offload, measured, monkeypatch
):
    monkeypatch.setattr("benchmarks.true_size.is_built", lambda folder: True)
    sets = SMALL_VOCABULARY if preset == "CPM-2-X-M" else ()
    given = argparse.Namespace(
        preset=preset, layers=layers, precision=precision, stage=stage, offload=offload, assignments=sets
    )
    config = resolve(preset, environment={}, assignments=settings_of(given)).config
    planned = planned_peaks(config, 2, 2)
    peaks = {phase: peak * GIB for phase, peak in zip(PHASES, measured, strict=True) if peak}
    apart = {phase: planned[phase] / peak - 1 for phase, peak in peaks.items()}
    assert max(map(abs, apart.values())) < 0.10, apart
