import json
import subprocess
import sys
from dataclasses import replace

import pytest

from fpm_cli.accounting.calibration import Calibration
from fpm_cli.cli import new_run
from fpm_cli.cli.app import run
from fpm_cli.cli.calibrated import calibration_path
from fpm_cli.launch.gpus import Gpus


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


def test_a_dry_run_plans_the_start_and_the_memory_of_the_host(capsys):
    planned = document(capsys, *DRY_RUN, "--device", "A100-40", "--devices", "8")
    memory, parts = planned["memory_per_device_bytes"], planned["host_bytes_by_part"]
    assert memory["params"] < memory["start_peak"] <= memory["load_peak"] < memory["total"]
    assert planned["host_bytes"] == parts["ranks"] + parts["offloaded"] + parts["save_copies"]
    assert planned["host_available_bytes"] == 10**12
    assert any("DGX A100" in line for line in planned["assumptions"])


def test_a_run_does_not_fit_a_host_that_is_too_small(capsys):
    offload = ["--set", "engine.offload=optimizer", "--device", "A100-40", "--devices", "8"]
    assert document(capsys, *DRY_RUN, *offload)["fits"] is True
    assert document(capsys, *DRY_RUN, *offload, "--host-memory", "64")["fits"] is False
    assert run([*DRY_RUN, *offload, "--host-memory", "64"]) == 0
    assert "the host's memory is too small" in capsys.readouterr().out


def test_training_that_the_host_has_no_room_for_exits_4(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(new_run, "query_gpus", lambda: Gpus(8, 40 * 10**9, True))
    machine = replace(new_run.this_machine(), memory_bytes=64 * 10**9)
    monkeypatch.setattr(new_run, "this_machine", lambda: machine)
    corpus = tmp_path / "corpus"
    flags = ["pretrain", "--preset", "CPM-X-L", "--set", "engine.offload=optimizer", "--corpus", str(corpus)]
    assert run([*flags, "--out", str(tmp_path / "run")]) == 4
    said = capsys.readouterr().err
    assert "of this machine's memory for 8 rank(s) and 59.6 GiB are available" in said
    assert not (tmp_path / "run").exists()


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
        ([*DRY_RUN, "--host-memory", "0"], "--host-memory"),
        (["pretrain", "--preset", "CPM-X-S", "--host-memory", "64"], "--dry-run"),
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
    assert all(preset["memory_per_device_bytes"]["start_peak"] > 0 for preset in planned["presets"])
    assert all(preset["host_bytes"] > 0 for preset in planned["presets"])
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
