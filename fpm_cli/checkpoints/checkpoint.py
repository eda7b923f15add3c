"""The checkpoint on disk: what its files are, how one comes to be there whole, and how it is read.

    checkpoints/step-N/weights-R.safetensors    the fp32 weights that rank R owned, in flat pieces ("leaves")
    checkpoints/step-N/optimizer-R.safetensors  the optimizer's state of the same leaves
    checkpoints/step-N/rank-R.json              which stretch of which parameter lies where in the leaves
    checkpoints/step-N/state.json               step, samples seen, loss scale, shapes
    checkpoints/step-N/manifest.json            the size and the xxh3-128 of every other file
    latest                                      the name of the newest, for people and scripts

Everything is written into a hidden folder, made durable, and renamed: a `step-N` that has a manifest is
whole. The newest of those is the one that counts; `latest` may lag behind it by one crash. Nothing is a
pickle, and no tensor is used before its file has matched the manifest.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from fpm_cli.checkpoints.shards import (
    OPTIMIZER,
    WEIGHTS,
    Shard,
    Stretch,
    read_document,
    read_stretches,
    shard_facts,
    write_shard,
)
from fpm_cli.checkpoints.storage import (
    LOCAL,
    Disk,
    FileFacts,
    describe,
    remove_tree,
    replace_file,
    write_file,
)
from fpm_cli.config.schema import Frozen
from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.runs.run import Run

MANIFEST, STATE = "manifest.json", "state.json"
_FOLDER = re.compile(r"step-(0|[1-9][0-9]{0,17})")
_FILE = re.compile(r"(weights|optimizer)-[0-9]+\.safetensors|rank-[0-9]+\.json|state\.json")
log = logging.getLogger(__name__)


class SpikeState(Frozen):
    """What the detection of loss spikes knows between two steps."""

    losses: tuple[float, ...] = ()
    gradient_norms: tuple[float, ...] = ()
    batches_passed_over: NonNegativeInt = 0  # step k trains on global batch k + this many
    skipped_in_a_row: NonNegativeInt = 0


class CheckpointState(Frozen):
    """Where training stood. Sample order, dropout and learning rate follow from `step`."""

    step: NonNegativeInt  # optimizer steps taken
    samples: NonNegativeInt  # sequences seen
    world_size: NonNegativeInt
    zero_stage: NonNegativeInt
    validation_loss: float | None = None  # of this step, where it was measured: the best has the least
    optimizer_step: float = 0.0  # the optimizer's own count, which a skipped step does not raise
    loss_scaler: dict[str, float] = Field(default_factory=dict)
    spikes: SpikeState = SpikeState()
    shapes: dict[str, tuple[NonNegativeInt, ...]]  # of every parameter


class Manifest(Frozen):
    """Every file but itself."""

    files: dict[str, FileFacts]


def temporary_folder(run: Run, step: int) -> Path:
    """Where the checkpoint of `step` is written."""
    return run.checkpoints / f".step-{step}.tmp"


def begin(disk: Disk, run: Run, step: int) -> None:
    """A new, empty temporary folder for the checkpoint of `step`."""
    temporary = temporary_folder(run, step)
    if temporary.is_symlink() or temporary.exists():
        remove_tree(disk, temporary)
    disk.make_folder(temporary)


def commit(disk: Disk, run: Run, state: CheckpointState) -> Path:
    """Seal the temporary folder, where every rank's shard is written, and rename it into place.

    Raises:
        OSError: it could not be; the checkpoint before it is still the newest.
    """
    temporary, final = temporary_folder(run, state.step), run.checkpoints / f"step-{state.step}"
    facts: dict[str, FileFacts] = {}
    for rank in range(state.world_size):
        written = shard_facts(temporary, rank)
        assert written is not None, f"rank {rank} has not written its shard"
        facts.update(written)
    state_facts = write_file(disk, temporary / STATE, [state.model_dump_json().encode()])
    manifest = Manifest(files={**facts, STATE: state_facts})
    write_file(disk, temporary / MANIFEST, [manifest.model_dump_json().encode()])
    disk.sync_folder(temporary)
    if final.is_symlink() or final.exists():  # never one of ours: training goes on from the newest
        _throw_away(disk, final)
    disk.rename(temporary, final)
    disk.sync_folder(run.checkpoints)
    replace_file(disk, run.path / "latest", f"{final.name}\n".encode())
    return final


def save_weights(run: Run, weights: Mapping[str, Tensor], disk: Disk = LOCAL) -> None:
    """A checkpoint at step 0 of weights that were not trained here; training from it has a new optimizer."""
    begin(disk, run, 0)
    whole = tuple(
        Stretch(leaf=name, start=0, name=name, offset=0, length=value.numel())
        for name, value in weights.items()
    )
    write_shard(disk, temporary_folder(run, 0), 0, Shard(weights, {}, whole))
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    commit(disk, run, CheckpointState(step=0, samples=0, world_size=1, zero_stage=0, shapes=shapes))


def load_weights(run: Run, *, best: bool = False) -> tuple[dict[str, Tensor], int]:
    """The whole weights of the newest checkpoint, or of the best, on the CPU, and the step they are from.

    Raises:
        MissingError: the run has no checkpoint yet.
        DamagedError: that one is damaged.
    """
    folder = (best_checkpoint(checkpoints(run)) if best else None) or latest_checkpoint(run)
    if folder is None:
        raise MissingError(f"{run.path} has no checkpoint yet")
    state = verify_checkpoint(folder, weights_only=True)
    there = sum(path.stat().st_size for path in folder.glob(f"{WEIGHTS}-*"))
    if 2 * sum(torch.Size(shape).numel() for shape in state.shapes.values()) > there:
        raise DamagedError(f"{folder / STATE}: its shapes are more than the files hold")
    weights = {name: torch.zeros(shape) for name, shape in state.shapes.items()}
    whole = {name: (0, weight.numel()) for name, weight in weights.items()}
    read_stretches(folder, WEIGHTS, whole, lambda name, _: weights[name].view(-1))
    return weights, state.step


def checkpoints(run: Run) -> list[Path]:
    """Every complete checkpoint, oldest first."""
    found = [
        path
        for path in (run.checkpoints.iterdir() if run.checkpoints.is_dir() else ())
        if _FOLDER.fullmatch(path.name) and not path.is_symlink() and (path / MANIFEST).is_file()
    ]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name states."""
    return int(folder.name.removeprefix("step-"))


def best_checkpoint(found: list[Path]) -> Path | None:
    """Of these checkpoints the first of the lowest validation loss; None if none was validated."""
    losses = {path: read_document(path / STATE, CheckpointState).validation_loss for path in found}
    measured = [path for path in found if losses[path] is not None]
    return min(measured, key=lambda path: losses[path] or 0.0) if measured else None


def latest_checkpoint(run: Run) -> Path | None:
    """The newest complete checkpoint, or None before the first save.

    `latest` is not believed, only compared: a crash can leave it one behind, and a copy can lose it.
    """
    found = checkpoints(run)
    if not found:
        return None
    pointer = run.path / "latest"
    try:
        named = pointer.read_bytes()[:100].decode("utf-8", "replace").strip() if pointer.is_file() else None
    except OSError as error:
        named = str(error)
    if named != found[-1].name:
        said = "is missing" if named is None else f"names {named!r}"
        log.warning("%s %s; the newest complete checkpoint is %s", pointer, said, found[-1])
    return found[-1]


def verify_checkpoint(
    folder: Path, *, weights_only: bool = False, share: tuple[int, int] = (0, 1)
) -> CheckpointState:
    """Compare every file (or all but the optimizer's) with the manifest; then read the state.

    Args:
        folder: a complete checkpoint.
        weights_only: the optimizer's files will not be read.
        share: (rank, ranks): each rank compares its share of the tensor files, and must hear of the others'.

    Raises:
        DamagedError: names the first file that is missing, foreign or different.
    """
    files = read_document(folder / MANIFEST, Manifest).files
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if present != set(files):
        name = sorted(present ^ set(files))[0]
        raise DamagedError(f"{folder / name}: {'missing' if name in files else 'not in the manifest'}")
    rank, ranks = share
    for number, (name, expected) in enumerate(files.items()):
        path = folder / name
        if not _FILE.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise DamagedError(f"{path}: no part of a checkpoint")
        unused = weights_only and name.startswith(OPTIMIZER)
        if unused or (path.suffix != ".json" and number % ranks != rank):
            continue
        if path.stat().st_size != expected.bytes or describe(path) != expected:
            raise DamagedError(
                f"{path}: its size or checksum is not what was saved; without that folder, the "
                "checkpoint before it is the newest"
            )
    return read_document(folder / STATE, CheckpointState)


def clean(disk: Disk, run: Run) -> None:
    """Remove what a crash left half-written."""
    for path in sorted(run.checkpoints.glob(".step-*")):
        remove_tree(disk, path)


def prune(disk: Disk, run: Run, *, keep_last: int, keep_best: bool) -> None:
    """Remove all but the newest `keep_last` checkpoints and the one of the lowest validation loss."""
    found = checkpoints(run)
    kept = set(found[-keep_last:])
    if keep_best:
        best = best_checkpoint(found)
        kept.update([best] if best else [])
    for path in found:
        if path not in kept:
            _throw_away(disk, path)


def _throw_away(disk: Disk, folder: Path) -> None:
    """First out of sight, in one step: half of it must never pass for a checkpoint."""
    hidden = folder.with_name(f".{folder.name}.old")
    disk.rename(folder, hidden)
    disk.sync_folder(folder.parent)
    remove_tree(disk, hidden)
