"""A checkpoint is the one that was saved, or it is not loaded at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.engine.checkpoint import latest_checkpoint, load_weights, verify_checkpoint
from fpm_cli.engine.run import Run
from fpm_cli.errors import DamagedError, MissingError
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
    assert {"model.safetensors", "state.json"} < set(files)
    assert not [name for name in files if name.endswith(".py")]
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


@pytest.mark.parametrize("pointer", ["", "step-7", "../../elsewhere", "step-1/../step-1", "\0"])
def test_a_pointer_that_names_no_checkpoint_of_this_run_is_refused(trained: Path, pointer: str) -> None:
    latest = trained / "latest"
    whole = latest.read_text()
    latest.write_text(pointer)
    try:
        with pytest.raises(DamagedError, match="latest"):
            latest_checkpoint(Run(trained))
    finally:
        latest.write_text(whole)


def test_a_run_without_a_checkpoint_is_missing_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no checkpoint yet"):
        load_weights(Run(tmp_path))
