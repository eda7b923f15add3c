"""A run folder and a checkpoint that fpm 0.1.0 wrote are resumed, scored and generated from.

`tests/fixtures/run_0_1_0` is a two-layer GPT of width 8 after 4 of 6 steps, on a part of the packaged English
sample. The expected numbers are what fpm 0.1.0 itself printed for it.
"""

import json
import shutil
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from tests.small_runs import metrics

OLD_RUN = Path(__file__).parents[1] / "fixtures/run_0_1_0"
TRAIN_LOSSES = {5: 5.907536029815674, 6: 5.84020471572876}
VALIDATION_LOSS_AT_6 = 5.830905914306641
VALIDATION_LOSS_AT_4 = 5.84438153107961  # over the whole validation split
GREEDY_TEXT = "The shipndnd����������"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_RUN, tmp_path / "old"))


def test_an_old_run_is_resumed_with_the_losses_of_the_version_that_wrote_it(old_run: Path) -> None:
    assert fpm(["-q", "pretrain", "--resume", "--nproc", "1", "--out", str(old_run)]) == 0
    train = metrics(old_run, "train")
    assert sorted(train) == [1, 2, 3, 4, 5, 6]
    assert {step: train[step] for step in TRAIN_LOSSES} == pytest.approx(TRAIN_LOSSES, abs=1e-5)
    assert metrics(old_run, "validation")[6] == pytest.approx(VALIDATION_LOSS_AT_6, abs=1e-5)
    manifest = json.loads((old_run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["state"] == "finished"
    assert [launch["last_step"] for launch in manifest["launches"]] == [4, 6]
    assert manifest["price_per_device_hour"] == 2.0


def test_an_old_run_is_scored_with_the_loss_of_the_version_that_wrote_it(
    old_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpm(["evaluate", "lm", str(old_run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["step"] == 4
    assert document["loss"] == pytest.approx(VALIDATION_LOSS_AT_4, abs=1e-5)


def test_an_old_run_generates_the_text_of_the_version_that_wrote_it(
    old_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = ["--prompt", "The ship", "--max-tokens", "12", "--temperature", "0"]
    assert fpm(["generate", str(old_run), *prompt, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == [GREEDY_TEXT]


def test_an_old_run_is_accounted_for(old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpm(["cost-report", str(old_run), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert (row["steps"], row["launches"], row["devices"]) == (4, 1, 1)
    assert row["price"] == pytest.approx(0.347 / 3600 * 2.0)
