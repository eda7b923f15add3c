import random

import pytest

from fpm_cli.accounting.calibration import Calibration, calibrate, calibration_configs
from fpm_cli.accounting.fit import fit_rates
from fpm_cli.accounting.flops import step_flops
from fpm_cli.config.resolve import resolve
from fpm_cli.errors import DamagedError


def test_rates_are_found_again_and_never_negative():
    rng = random.Random(1)
    rows = [[rng.random(), 1e9 * rng.random(), rng.random()] for _ in range(30)]
    seconds = [2.0 * a + 3e-9 * b for a, b, _ in rows]
    assert fit_rates(rows, seconds) == pytest.approx([2.0, 3e-9, 0.0], abs=1e-6)


def test_a_machine_of_known_speed_is_predicted():
    def measure(config):
        return step_flops(config).hardware / 1e10 + 1e-3

    fitted = calibrate(measure, peak_flops=1e11, threads=1, measured_at="today")
    unseen = resolve("BERT-E-E", proxy=True, environment={}).config
    assert fitted.fit_error < 0.05
    assert fitted.step_time(unseen).seconds == pytest.approx(measure(unseen), rel=0.05)


def test_the_calibrations_shapes_are_small_and_of_every_family():
    configs = list(calibration_configs())
    assert {config.family for config in configs} == {"gpt", "bert", "encdec"}
    assert all(step_flops(config).hardware < 2e10 for config in configs)


def test_a_calibration_is_kept_and_damage_is_named(tmp_path):
    path = tmp_path / "fpm" / "calibration.json"
    assert Calibration.load(path) is None
    fitted = Calibration((1e-11, 1e-9, 1e-8, 1e-3, 1e-3), 1e11, 2, "today", 0.1)
    fitted.save(path)
    assert Calibration.load(path) == fitted
    path.write_text("{}")
    with pytest.raises(DamagedError, match=r"calibration\.json"):
        Calibration.load(path)
