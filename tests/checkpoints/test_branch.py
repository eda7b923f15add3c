"""Runs of several lengths that share the constant part of a wsd schedule."""

import json
from pathlib import Path

import pytest

from fpm_cli.cli.app import run
from fpm_cli.runs.run import Run
from tests.small_runs import metrics, tiny

WSD = ("train.schedule=wsd", "train.decay_share=0.5", "train.warmup_steps=2", "train.min_lr=0")


def pretrain(folder: Path, *assignments: str) -> int:
    return run(["--quiet", *tiny("CPM-X-S", "model.num_layers=2", *WSD, *assignments), "--out", str(folder)])


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("branch") / "trunk"
    assert pretrain(folder, "train.steps=20", "train.keep_steps=[4]", "train.save_every=2") == 0
    return folder


def test_steps_to_keep_are_saved_and_never_deleted(trunk: Path) -> None:
    kept = {folder.name for folder in (trunk / "checkpoints").iterdir()}
    assert kept >= {"step-4", "step-20"}
    assert "step-6" not in kept


def test_a_branch_is_bit_identical_to_a_run_of_that_length(trunk: Path, tmp_path: Path) -> None:
    assert run(["--quiet", "pretrain", "--decay-from", f"{trunk}@4", "--out", str(tmp_path / "branch")]) == 0
    assert pretrain(tmp_path / "whole", "train.steps=8") == 0
    branch, whole = (metrics(tmp_path / name, "train") for name in ("branch", "whole"))
    assert sorted(branch) == [5, 6, 7, 8]
    assert branch == {step: loss for step, loss in whole.items() if step > 4}
    assert Run.open(tmp_path / "branch").config().train.steps == 8


def test_a_stopped_branch_resumes(trunk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "branch"
    flags = ["--decay-from", f"{trunk}@4", "--set", "train.save_every=1", "--out", str(folder)]
    assert run(["--quiet", "pretrain", *flags]) == 0
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "state": "stopped"}), encoding="utf-8")
    for step in (7, 8):
        for file in (folder / "checkpoints" / f"step-{step}").iterdir():
            file.unlink()
        (folder / "checkpoints" / f"step-{step}").rmdir()
    losses = metrics(folder, "train")
    assert run(["--quiet", "pretrain", "--resume", "--out", str(folder)]) == 0
    assert metrics(folder, "train") == losses


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--decay-from", "TRUNK"], 2, "RUN@STEP"),
        (["--decay-from", "TRUNK@5"], 3, "no checkpoint of step 5"),
        (["--decay-from", "TRUNK@12"], 2, "constant from step 2 to 10"),
        (["--decay-from", "TRUNK@4", "--set", "train.lr=1"], 6, "train.lr"),
        (["--decay-from", "TRUNK@4", "--set", "train.schedule=cosine"], 2, "not 'wsd'"),
        (["--decay-from", "TRUNK@4", "--preset", "CPM-X-S"], 2, "leave out"),
        (["--decay-from", "nowhere@4"], 3, "nowhere"),
        (["--resume", "--tokens", "1e6"], 2, "leave out"),
    ],
)
def test_wrong_branches_are_refused_and_leave_nothing(
    trunk: Path,
    flags: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [flag.replace("TRUNK", str(trunk)) for flag in flags]
    assert run(["pretrain", *given, "--out", str(tmp_path / "branch")]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "branch").exists()


def test_horizon_flags_set_the_steps(tmp_path: Path) -> None:
    flags = [*tiny("CPM-X-S", "model.num_layers=2"), "--tokens", "1000", "--out", str(tmp_path / "run")]
    assert run(["--quiet", *flags]) == 0
    assert Run.open(tmp_path / "run").config().train.steps == 8  # 128 tokens per step
