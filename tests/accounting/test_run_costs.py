import json

import pytest

from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.run_costs import read_run, run_costs
from fpm_cli.errors import DamagedError, MissingError
from tests.run_folder import launch, write_run


def test_replayed_steps_are_charged_but_are_no_useful_work(tmp_path):
    launches = [launch(0, 30, 20.0), launch(20, 40, 15.0)]  # ten steps were lost and run again
    config = write_run(tmp_path / "run", launches, range(1, 41))
    costs = run_costs(read_run(tmp_path / "run"), peak_flops=1e11)
    flops = step_flops(config)
    assert (costs.steps, costs.steps_run, costs.launches) == (40, 50, 2)
    assert costs.device_hours == pytest.approx(35 / 3600)
    assert costs.tokens == 40 * flops.tokens
    assert costs.model_flops == 40 * flops.model
    assert costs.hardware_flops == 50 * flops.hardware
    assert costs.achieved_flops_per_second == pytest.approx(costs.model_flops / 35)
    assert costs.mfu == pytest.approx(costs.model_flops / (35 * 1e11))
    assert costs.measured_seconds_per_step == 0.5


def test_steps_count_what_they_computed_without_their_padding(tmp_path):
    launches = [launch(0, 3, 10.0), launch(2, 4, 10.0)]  # step 3 was lost and run again, step 4 not recorded
    planned = step_flops(write_run(tmp_path / "run", launches, range(1, 4)))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for row, tokens in zip(rows, (30, 10, 20), strict=False):
        row |= {"tokens": tokens, "model_flops": 3 * tokens, "hardware_flops": 4 * tokens}
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    costs = run_costs(read_run(tmp_path / "run"))
    assert (costs.tokens, costs.model_flops, costs.hardware_flops) == (4 * 20, 4 * 60, 5 * 80)
    assert planned.tokens > 20


def test_more_devices_cost_more(tmp_path):
    config = write_run(tmp_path / "run", [launch(0, 10, 10.0, 8, "NVIDIA A100-SXM4-40GB")], range(1, 11))
    costs = run_costs(read_run(tmp_path / "run"))
    assert costs.device_hours == pytest.approx(80 / 3600)
    assert costs.peak_budget_flops == pytest.approx(80 * 312e12)
    assert costs.mfu == pytest.approx(10 * step_flops(config).model / (80 * 312e12))
    assert costs.predicted_seconds_per_step > 0


def test_an_unknown_device_has_no_utilisation(tmp_path):
    write_run(tmp_path / "run", [launch(0, 10, 10.0)], range(1, 11))
    costs = run_costs(read_run(tmp_path / "run"))
    assert costs.mfu is None
    assert costs.predicted_seconds_per_step is None


def test_a_launch_that_was_killed_counts_by_its_metrics(tmp_path):
    write_run(tmp_path / "run", [launch(0, 0, 10.0)], range(1, 8), tail='{"kind": "tra')
    costs = run_costs(read_run(tmp_path / "run"))
    assert (costs.steps, costs.steps_run) == (7, 7)


def test_what_is_no_run_folder_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"config\.toml is missing"):
        read_run(tmp_path)


def test_a_damaged_record_is_named(tmp_path):
    write_run(tmp_path / "run", [{"seconds": "long"}], [1])
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        read_run(tmp_path / "run")
    write_run(tmp_path / "other", [], [1], tail="{broken\n{}\n")
    with pytest.raises(DamagedError, match=r"metrics\.jsonl, line 3"):
        read_run(tmp_path / "other")
