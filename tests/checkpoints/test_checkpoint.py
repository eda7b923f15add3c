"""A checkpoint is the one that was saved, or it is not loaded at all."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from fpm_cli.checkpoints.checkpoint import load_weights, prune, remove_incomplete, verify_checkpoint
from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.cli.app import run as fpm
from fpm_cli.errors import DamagedError, DivergedError, MissingError
from fpm_cli.runs.run import Run
from tests.small_checkpoints import write_checkpoint
from tests.small_runs import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    flags = tiny("BERT-C", "train.steps=1", "model.num_layers=2")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("BERT-C")), "--out", str(run)]) == 0
    return run


def test_every_file_is_in_the_manifest_and_code_is_not_among_them(trained: Path) -> None:
    folder = trained / "checkpoints/step-1"
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == {"weights-0.safetensors", "optimizer-0.safetensors", "rank-0.json", "state.json"}
    verify_checkpoint(folder)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add"])
def test_damage_is_found_and_named_before_anything_is_used(trained: Path, damage: str) -> None:
    folder = trained / "checkpoints/step-1"
    for victim in [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]:
        whole = victim.read_bytes()
        if damage == "flip":
            middle = len(whole) // 2
            victim.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        elif damage == "truncate":
            victim.write_bytes(whole[:-1])
        elif damage == "remove":
            victim.unlink()
        else:
            victim.with_name("stranger.pt").write_bytes(b"")
        try:
            with pytest.raises(DamagedError, match=r"stranger.pt" if damage == "add" else victim.name):
                verify_checkpoint(folder)
        finally:
            victim.write_bytes(whole)
            victim.with_name("stranger.pt").unlink(missing_ok=True)
    verify_checkpoint(folder)


@pytest.mark.parametrize("pointer", [None, "", "step-7", "../../elsewhere", "step-1/../step-1", "\0"])
def test_a_pointer_that_is_wrong_is_said_and_the_newest_checkpoint_taken(
    trained: Path, pointer: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    latest = trained / "latest"
    whole = latest.read_text()
    if pointer is None:
        latest.unlink()
    else:
        latest.write_text(pointer)
    try:
        assert find_latest_checkpoint(Run(trained)) == trained / "checkpoints/step-1"
        assert "the newest complete checkpoint is" in caplog.text
    finally:
        latest.write_text(whole)


def test_a_folder_without_a_manifest_is_no_checkpoint(trained: Path) -> None:
    unfinished = trained / "checkpoints/step-2"
    unfinished.mkdir()
    try:
        assert find_latest_checkpoint(Run(trained)) == trained / "checkpoints/step-1"
    finally:
        unfinished.rmdir()


def test_a_run_without_a_checkpoint_is_missing_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no checkpoint yet"):
        load_weights(Run(tmp_path))


@pytest.mark.parametrize(
    ("last", "best", "kept"), [(1, False, [5]), (2, True, [2, 4, 5]), (9, True, range(1, 6))]
)
def test_the_newest_and_the_best_are_kept(tmp_path: Path, last: int, best: bool, kept: Sequence[int]) -> None:
    run = Run(tmp_path)
    run.checkpoints.mkdir()
    for step, loss in enumerate([3.0, 1.0, None, 2.0, 4.0], start=1):
        write_checkpoint(run, step, {"w": torch.ones(3)}, selection_metric=loss)
    prune(run, keep_last=last, keep_best=best)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [f"step-{step}" for step in kept]


@pytest.mark.row
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_never_saved(
    tmp_path: Path, value: float, report: Callable[[str], None]
) -> None:
    run = Run(tmp_path)
    run.checkpoints.mkdir()
    write_checkpoint(run, 1, {"w": torch.ones(3)})
    with pytest.raises(DivergedError, match="not finite"):
        write_checkpoint(run, 2, {"w": torch.tensor([1.0, value, 1.0])})
    remove_incomplete(run)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-1"]
    report(f"not finite: a state with one {value} was refused; the checkpoint before it is there")


def test_large_numbers_whose_sum_overflows_are_saved(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpoints.mkdir()
    write_checkpoint(run, 1, {"w": torch.full((40,), 3e37)})
    assert load_weights(run)[0]["w"].equal(torch.full((40,), 3e37))
