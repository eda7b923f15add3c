"""A checkpoint on disk: its files, how it becomes complete, how it is verified and read.

    checkpoints/step-N/weights-R.safetensors    fp32 weights that rank R owns, as flat partitions
    checkpoints/step-N/optimizer-R.safetensors  the optimizer's states of the same partitions
    checkpoints/step-N/rank-R.json              which slice of which parameter lies where in the partitions
    checkpoints/step-N/state.json               step, samples seen, loss scale, shapes
    checkpoints/step-N/manifest.json            size and xxh3-128 of every other file
    latest                                      the name of the newest, for people and scripts

Everything is written into a hidden folder, made durable, and renamed, so a `step-N` that has a manifest is
complete. The newest of these is the one to resume from; after a crash `latest` may name the one before it.
Nothing is a pickle, and no tensor is used before its file has been compared with the manifest.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from pydantic import AliasChoices, Field, NonNegativeInt
from torch import Tensor

from fpm_cli.checkpoints.folders import MANIFEST, find_latest_checkpoint, list_checkpoints
from fpm_cli.checkpoints.shards import (
    OPTIMIZER,
    WEIGHTS,
    ParameterName,
    ParameterSlice,
    Shard,
    read_document,
    read_shard_facts,
    read_slices,
    write_shard,
)
from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import LOCAL_DISK, Disk, FileFacts, hash_file, remove_tree, replace_file, write_file
from fpm_cli.frozen import Frozen
from fpm_cli.runs.run import Run

STATE = "state.json"
_FILE = re.compile(r"(weights|optimizer)-[0-9]+\.safetensors|rank-[0-9]+\.json|state\.json")


class SpikeState(Frozen):
    """The state of loss-spike detection between two steps."""

    losses: tuple[float, ...] = ()
    gradient_norms: tuple[float, ...] = ()
    # Optimizer step k (counted from 1) trains on global batch k - 1 + this many.
    skipped_batches: NonNegativeInt = Field(
        0, validation_alias=AliasChoices("skipped_batches", "batches_passed_over")
    )
    skipped_in_a_row: NonNegativeInt = 0


class CheckpointState(Frozen):
    """The state of training. Sample order, dropout and learning rate are functions of `step`."""

    step: NonNegativeInt  # optimizer steps taken
    samples: NonNegativeInt  # sequences seen
    world_size: NonNegativeInt
    zero_stage: NonNegativeInt
    # The validation loss, or 1 - score, where it was measured; the best checkpoint's is the lowest.
    selection_metric: float | None = Field(
        None, validation_alias=AliasChoices("selection_metric", "validation_loss")
    )
    optimizer_step: float = 0.0  # the optimizer's own count, which a skipped step does not raise
    loss_scaler: dict[str, float] = Field(default_factory=dict)
    spikes: SpikeState = SpikeState()
    shapes: dict[ParameterName, tuple[NonNegativeInt, ...]]  # of every parameter


class Manifest(Frozen):
    """The facts of every file of a checkpoint but the manifest itself."""

    files: dict[str, FileFacts]


def checkpoint_folder(run: Run, step: int) -> Path:
    """Where the complete checkpoint of `step` lies."""
    return run.checkpoints / f"step-{step}"


def temporary_folder(run: Run, step: int) -> Path:
    """Where the checkpoint of `step` is written before it is complete."""
    return run.checkpoints / f".step-{step}.tmp"


def create_temporary_folder(run: Run, step: int, disk: Disk = LOCAL_DISK) -> None:
    """Make a new, empty temporary folder for the checkpoint of `step`."""
    temporary = temporary_folder(run, step)
    if temporary.is_symlink() or temporary.exists():
        remove_tree(temporary, disk)
    disk.make_folder(temporary)


def commit(run: Run, state: CheckpointState, disk: Disk = LOCAL_DISK) -> Path:
    """Complete the temporary folder, which has every rank's shard, and rename it to its final name.

    Raises:
        OSError: that failed; the checkpoint before it is still the newest.
    """
    temporary, final = temporary_folder(run, state.step), checkpoint_folder(run, state.step)
    files: dict[str, FileFacts] = {}
    for rank in range(state.world_size):
        facts = read_shard_facts(temporary, rank)
        assert facts is not None, f"rank {rank} has not written its shard"
        files.update(facts)
    files[STATE] = write_file(temporary / STATE, [state.model_dump_json().encode()], disk)
    write_file(temporary / MANIFEST, [Manifest(files=files).model_dump_json().encode()], disk)
    disk.sync_folder(temporary)
    if final.is_symlink() or final.exists():  # not a checkpoint of this run: training resumes from the newest
        _discard(final, disk)
    disk.rename(temporary, final)
    disk.sync_folder(run.checkpoints)
    replace_file(run.path / "latest", f"{final.name}\n".encode(), disk)
    return final


def save_weights(run: Run, weights: Mapping[str, Tensor], disk: Disk = LOCAL_DISK) -> None:
    """Save weights that were not trained in this run as step 0; training from it starts a new optimizer."""
    create_temporary_folder(run, 0, disk)
    slices = tuple(ParameterSlice.whole(name, value.numel()) for name, value in weights.items())
    write_shard(temporary_folder(run, 0), 0, Shard(weights, {}, slices), disk)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    commit(run, CheckpointState(step=0, samples=0, world_size=1, zero_stage=0, shapes=shapes), disk)


def load_weights(run: Run, *, best: bool = False) -> tuple[dict[str, Tensor], int]:
    """Load the whole weights of the newest checkpoint, or of the best, onto the CPU; also returns its step.

    Raises:
        MissingError: the run has no checkpoint yet.
        DamagedError: the checkpoint is damaged.
    """
    folder, state = open_checkpoint(run, best=best)
    weights = {name: torch.zeros(shape) for name, shape in state.shapes.items()}
    read_weights(folder, weights)
    return weights, state.step


def open_checkpoint(run: Run, *, best: bool = False) -> tuple[Path, CheckpointState]:
    """The newest checkpoint, or the best, whose weights are then verified: its folder and state.

    Raises:
        MissingError: the run has no checkpoint yet.
        DamagedError: the checkpoint is damaged.
    """
    folder = (find_best_checkpoint(run) if best else None) or find_latest_checkpoint(run)
    if folder is None:
        raise MissingError(f"{run.path} has no checkpoint yet")
    state = verify_checkpoint(folder, weights_only=True)
    num_bytes = sum(path.stat().st_size for path in folder.glob(f"{WEIGHTS}-*"))
    if 2 * sum(torch.Size(shape).numel() for shape in state.shapes.values()) > num_bytes:
        raise DamagedError(f"{folder / STATE}: its shapes need more bytes than the files have")
    return folder, state


def read_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Set contiguous tensors, of any type and device, to a checkpoint's weights, a piece at a time.

    Raises:
        DamagedError: the checkpoint lacks some of them.
    """
    wanted = {name: (0, weight.numel()) for name, weight in weights.items()}
    read_slices(folder, WEIGHTS, wanted, lambda name, _: weights[name].detach().view(-1))


def find_best_checkpoint(run: Run) -> Path | None:
    """The first checkpoint with the lowest selection metric; None if none was validated."""
    folders = list_checkpoints(run)
    metrics = {path: read_document(path / STATE, CheckpointState).selection_metric for path in folders}
    validated = {path: metric for path, metric in metrics.items() if metric is not None}
    return min(validated, key=lambda path: validated[path]) if validated else None


def verify_checkpoint(
    folder: Path, *, weights_only: bool = False, share: tuple[int, int] = (0, 1)
) -> CheckpointState:
    """Compare every file (or all but the optimizer's) with the manifest; then read the state.

    Args:
        folder: a complete checkpoint.
        weights_only: leave out the optimizer's files, which will not be read.
        share: (rank, number of ranks): this rank compares its share of the tensor files. The ranks must agree
            afterwards that none of them found damage.

    Raises:
        DamagedError: names the first file that is missing, unknown or different.
    """
    files = read_document(folder / MANIFEST, Manifest).files
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if present != set(files):
        name = sorted(present ^ set(files))[0]
        raise DamagedError(f"{folder / name}: {'missing' if name in files else 'not in the manifest'}")
    rank, num_ranks = share
    for number, (name, expected) in enumerate(files.items()):
        path = folder / name
        if not _FILE.fullmatch(name) or path.is_symlink() or not path.is_file():
            raise DamagedError(f"{path}: no part of a checkpoint")
        unused = weights_only and name.startswith(OPTIMIZER)
        if unused or (path.suffix != ".json" and number % num_ranks != rank):
            continue
        if path.stat().st_size != expected.bytes or hash_file(path) != expected:
            raise DamagedError(
                f"{path}: its size or checksum is not what was saved; if you remove that folder, the "
                "checkpoint before it becomes the newest"
            )
    return read_document(folder / STATE, CheckpointState)


def remove_incomplete(run: Run, disk: Disk = LOCAL_DISK) -> None:
    """Remove what a crash left of checkpoints that were not complete."""
    for path in sorted(run.checkpoints.glob(".step-*")):
        remove_tree(path, disk)


def prune(
    run: Run,
    *,
    keep_last: int,
    keep_best: bool,
    keep_steps: Collection[int] = (),
    disk: Disk = LOCAL_DISK,
) -> None:
    """Remove all but the newest `keep_last` checkpoints, the best by selection metric, and `keep_steps`."""
    folders = list_checkpoints(run)
    kept = {*folders[-keep_last:], find_best_checkpoint(run) if keep_best else None}
    kept |= {checkpoint_folder(run, step) for step in keep_steps}
    for path in folders:
        if path not in kept:
            _discard(path, disk)


def _discard(folder: Path, disk: Disk) -> None:
    """Rename it first, which is atomic: a checkpoint that is half removed must not be taken for complete."""
    hidden = folder.with_name(f".{folder.name}.old")
    disk.rename(folder, hidden)
    disk.sync_folder(folder.parent)
    remove_tree(hidden, disk)
