"""Row: a crash after every operation of a save, with ten kinds of damage to what was not yet synced.

SIGKILL cannot show this, for the page cache outlives a process. The old or the new checkpoint must be
there; the new one if its save had returned. Then the same of a crash while the next launch recovers.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fpm_cli.checkpoints.checkpoint import load_weights, prune, remove_incomplete, verify_checkpoint
from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.runs.run import Run
from tests.small_checkpoints import write_checkpoint
from tests.torture.crashes import DAMAGES, Image, Operation, Recorder, crashed, read_image, write_image
from tests.torture.scale import counts


def weights(step: int) -> dict[str, torch.Tensor]:
    return {name: torch.full((5,), float(step)) for name in ("a", "b")}


def record(before: Image, root: Path) -> tuple[list[Operation], int, int]:
    """What a launch does with what it finds: the operations, how many until the save returned, its step."""
    write_image(before, root)
    disk, run = Recorder(root), Run(root)
    remove_incomplete(run, disk)
    step = load(root) + 1
    write_checkpoint(run, step, weights(step), ranks=2, disk=disk)
    acknowledged = len(disk.operations)
    prune(run, keep_last=1, keep_best=False, disk=disk)
    shutil.rmtree(root)
    return disk.operations, acknowledged, step


def load(root: Path) -> int:
    """The step of the checkpoint that is there, whole."""
    folder = find_latest_checkpoint(Run(root))
    assert folder is not None
    verify_checkpoint(folder)
    found, step = load_weights(Run(root))
    assert all(found[name].equal(expected) for name, expected in weights(step).items())
    return step


def crash_everywhere(before: Image, folder: Path) -> list[Image]:
    """Every crash image of a launch that finds `before`; each holds the old or the new checkpoint."""
    operations, acknowledged, new = record(before, folder / "recorded")
    images = []
    for count in range(len(operations) + 1):
        for number, damage in enumerate(DAMAGES):
            image = crashed(before, operations[:count], damage, seed=100 * count + number)
            write_image(image, folder / "crashed")
            step = load(folder / "crashed")
            assert step == new or (step == new - 1 and count < acknowledged), (count, damage.name, step)
            shutil.rmtree(folder / "crashed")
            images.append(image)
    return images


@counts(100, 1)
def test_every_crash_leaves_the_old_or_the_new_checkpoint(
    count: int, fast_folder: Path, report: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The second crash follows each `count`-th different outcome of the first."""
    caplog.set_level("ERROR")  # that `latest` lags is to be expected here
    run = Run(fast_folder / "first")
    run.checkpoints.mkdir(parents=True)
    write_checkpoint(run, 1, weights(1), ranks=2)
    firsts = crash_everywhere(read_image(run.path), fast_folder)
    different = list({tuple(image.items()): image for image in firsts}.values())
    seconds = sum(len(crash_everywhere(image, fast_folder)) for image in different[::count])
    report(
        f"crashes: {len(firsts):,} (each operation of a save x {len(DAMAGES)} kinds of damage) and "
        f"{seconds:,} more during recovery from {len(different[::count])} of {len(different)} outcomes: "
        "all recovered the old checkpoint or the new one"
    )
