import json
import subprocess
import sys

import pytest

from fpm_cli.accounting.calibration import Calibration
from fpm_cli.cli.app import run
from fpm_cli.cli.calibrated import calibration_path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def document(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


DRY_RUN = ["pretrain", "--preset", "CPM-X-L", "--dry-run"]
CONTRACT = {
    "exact_params",
    "tokens_per_step",
    "model_flops_per_step",
    "hardware_flops_per_step",
    "memory_per_device_bytes",
    "fits",
    "predicted_seconds_per_step",
    "command",
}


def test_a_dry_run_says_what_a_run_needs_and_where_it_fits(capsys):
    planned = document(capsys, *DRY_RUN, "--device", "A100-40", "--devices", "8", "--price", "1.5")
    assert planned["schema"] == "fpm.pretrain-dry-run/1"
    assert set(planned) >= CONTRACT
    assert planned["exact_params"] == 10_150_016_000
    assert planned["fits"] is True and planned["fits_on"]["RTX-4090"] is False
    assert any("zero_stage=1" in line and "does not fit" in line for line in planned["why"])
    assert planned["quickest_way_to_fit"]["settings"] == {}
    assert [row["num_devices"] for row in planned["by_num_devices"]] == [2**p for p in range(10)]
    assert planned["predicted_price"] == pytest.approx(planned["predicted_device_hours"] * 1.5)
    assert planned["command"] == "fpm pretrain --preset CPM-X-L"


def test_a_dry_run_for_people_names_its_assumptions(capsys):
    assert run([*DRY_RUN, "--device", "H100", "--devices", "64"]) == 0
    out = capsys.readouterr().out
    assert "fastest settings that fit" in out and "174 published" in out and "512" in out


def test_a_dry_run_here_uses_this_machines_calibration(capsys):
    unknown = document(capsys, "pretrain", "--preset", "CPM-X-S", "--proxy", "--dry-run")
    assert unknown["predicted_seconds_per_step"] is None
    assert any("--calibrate" in line for line in unknown["assumptions"])
    Calibration((1e-11, 1e-9, 1e-8, 1e-3, 1e-3), 1e11, 2, "today", 0.1).save(calibration_path())
    known = document(capsys, "pretrain", "--preset", "CPM-X-S", "--proxy", "--dry-run")
    assert 0 < known["predicted_seconds_per_step"] < 10
    assert 0 < known["predicted_mfu"] < 1


def test_a_dry_runs_command_keeps_what_was_set(capsys):
    planned = document(
        capsys, *DRY_RUN, "--set", "engine.zero_stage=1", "--device", "A100-40", "--devices", "8"
    )
    assert planned["command"] == "fpm pretrain --preset CPM-X-L --set engine.zero_stage=1"
    assert planned["fits"] is False
    assert planned["quickest_way_to_fit"]["settings"]["engine.zero_stage"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*DRY_RUN, "--device", "A100-45"], "'A100-40'"),
        ([*DRY_RUN, "--devices", "0"], "greater than or equal to 1"),
        ([*DRY_RUN, "--price", "-2"], "--price"),
        (["plan", "--budget", "24", "--device", "H10"], "'H100'"),
        (["plan", "--budget", "24", "--devices", "0"], "greater than or equal to 1"),
        (["plan", "--budget", "-1"], "above 0"),
        (["plan"], "--budget"),
        (["cost-report", "--price", "-2"], "--price"),
    ],
)
def test_what_cannot_be_exits_2_with_the_likely_mend(capsys, arguments, words):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_budget_is_spread_over_all_twenty(capsys):
    planned = document(capsys, "plan", "--budget", "24", "--device", "A100-40", "--devices", "8")
    assert len(planned["presets"]) == 20
    by_name = {preset["model"]: preset for preset in planned["presets"]}
    assert by_name["CPM-X-S"]["share_of_schedule"] > by_name["CPM-X-L"]["share_of_schedule"]
    assert by_name["CPM-X-L"]["tokens"] == by_name["CPM-X-L"]["steps"] * 512 * 1024
    assert planned["best_depths"]["BERT-E-E"]["num_layers"] % 2 == 0
    assert "20 tokens" in planned["assumption"]


@pytest.mark.parametrize(
    "arguments", [[*DRY_RUN, "--device", "A100-40", "--devices", "8"], ["plan", "--budget", "1"]]
)
def test_planning_needs_no_torch_and_little_memory(arguments):
    code = (
        "import sys, psutil\n"
        "from fpm_cli.cli.app import run\n"
        f"status = run({arguments!r})\n"
        "size = psutil.Process().memory_info().rss / 2**20\n"
        "light = 'torch' not in sys.modules and size < 300\n"
        "sys.exit(status if light else f'{size} MB')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_this_machine_is_calibrated_in_half_a_minute(capsys):
    measured = document(capsys, "plan", "--calibrate")
    assert measured["fit_error"] < 0.25
    assert measured["peak_flops"] > 1e9
    assert calibration_path().is_file()
