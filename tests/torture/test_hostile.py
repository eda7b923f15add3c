"""Row: hostile checkpoint and run files. None runs code, leaves its folder, or fills the memory."""

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fpm_cli.checkpoints.checkpoint import load_weights, prune, remove_incomplete, verify_checkpoint
from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.checkpoints.shards import OPTIMIZER, read_slices
from fpm_cli.config.resolve import resolve
from fpm_cli.errors import FpmError
from fpm_cli.runs.run import Run
from tests.small_checkpoints import write_checkpoint
from tests.torture.file_contents import contents
from tests.torture.hostile import ATTACKS, Payload


def victim(path: Path) -> None:
    run = Run.create(path, resolve("BERT-C", proxy=True, environment={}).config, None)
    write_checkpoint(run, 1, {"a": torch.ones(30), "b": torch.ones(4, 5)})


def outside_of(path: Path) -> Path:
    """What must stay as it is: a secret, and a checkpoint that is not this run's."""
    path.mkdir()
    (path / "secret").write_text("a secret")
    other = Run(path)
    other.checkpoints.mkdir()
    write_checkpoint(other, 9, {"a": torch.zeros(30), "b": torch.zeros(4, 5)})
    (path / "checkpoints/step-9").rename(path / "step-9")
    return path


def everything(path: Path) -> None:
    """All that fpm does with a run folder that it is given."""
    run = Run.open(path)
    run.config()
    run.manifest()
    remove_incomplete(run)
    weights, _ = load_weights(run)
    assert all(bool((value == 1).all()) for value in weights.values())  # its own, or none
    folder = find_latest_checkpoint(run)
    assert folder is not None
    state = verify_checkpoint(folder)
    moments = {name: torch.zeros(shape).view(-1) for name, shape in state.shapes.items()}
    read_slices(
        folder, OPTIMIZER, {n: (0, v.numel()) for n, v in moments.items()}, lambda name, _: moments[name]
    )
    prune(run, keep_last=1, keep_best=True)


@pytest.mark.row
def test_no_hostile_file_runs_code_or_leaves_its_folder(
    fast_folder: Path, report: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR")
    outside, witness = outside_of(fast_folder / "outside"), fast_folder / "witness"
    before, refused = contents(outside), 0
    os.system(Payload(witness).__reduce__()[1][0])  # the payload works
    assert witness.exists()
    witness.unlink()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, attack in ATTACKS.items():
        run = fast_folder / "run"
        victim(run)
        attack(run, outside, Payload(witness))
        try:
            everything(run)
        except FpmError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{name}: an error that is not fpm's own") from error
        assert not witness.exists(), f"{name}: its code ran"
        assert contents(outside) == before, f"{name}: it reached outside"
        assert {path.name for path in fast_folder.iterdir()} == {"run", "outside"}, name
        shutil.rmtree(run)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    report(
        f"hostile files: {len(ATTACKS)}, of which {refused} refused and the rest passed over; no code ran, "
        f"nothing outside was read or changed, {grown:.0f} MiB more memory"
    )
    assert len(ATTACKS) >= 50 and grown < 1000
