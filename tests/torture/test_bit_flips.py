"""Row: one flipped bit anywhere in a checkpoint is found before any tensor is used."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fpm_cli.checkpoints import shards
from fpm_cli.checkpoints.checkpoint import verify_checkpoint
from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.errors import DamagedError
from fpm_cli.runs.run import Run
from tests.small_checkpoints import write_checkpoint
from tests.torture.scale import counts


@counts(500, 10_000)
def test_every_flipped_bit_is_found(
    count: int, fast_folder: Path, report: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(fast_folder)
    run.checkpoints.mkdir()
    write_checkpoint(run, 1, {name: torch.randn(50, 7) for name in ("a", "b")}, ranks=2)
    folder = find_latest_checkpoint(run)
    assert folder is not None
    monkeypatch.setattr(shards, "TensorFile", None)  # whoever reads a tensor now fails otherwise
    files = sorted(folder.iterdir())
    chance = random.Random(3)
    unnoticed_alone = 0
    for number in range(count):
        path = files[number % len(files)]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            verify_checkpoint(folder)
        if path.suffix == ".safetensors":
            unnoticed_alone += loads(path)
        path.write_bytes(whole)
    verify_checkpoint(folder)
    report(
        f"bit flips: {count:,} of {count:,} found before a tensor was read "
        f"(safetensors alone would have loaded {unnoticed_alone:,})"
    )


def loads(path: Path) -> bool:
    try:
        load_file(path)
    except Exception:
        return False
    return True
