"""Checkpoints of a few numbers, written by what writes the real ones."""

from collections.abc import Mapping

from torch import Tensor

from fpm_cli.checkpoints import checkpoint
from fpm_cli.checkpoints.checkpoint import CheckpointState
from fpm_cli.checkpoints.shards import ParameterSlice, Shard, write_shard
from fpm_cli.files import LOCAL_DISK, Disk
from fpm_cli.runs.run import Run


def write_checkpoint(
    run: Run,
    step: int,
    weights: Mapping[str, Tensor],
    *,
    ranks: int = 1,
    selection_metric: float | None = None,
    disk: Disk = LOCAL_DISK,
) -> None:
    """The parameters are shared out over the ranks; each has one moment, ten times its weights."""
    checkpoint.create_temporary_folder(run, step, disk)
    for rank in range(ranks):
        ours = dict(list(weights.items())[rank::ranks])
        slices = tuple(ParameterSlice.whole(name, value.numel()) for name, value in ours.items())
        shard = Shard(ours, {f"exp_avg/{name}": 10 * value for name, value in ours.items()}, slices)
        write_shard(checkpoint.temporary_folder(run, step), rank, shard, disk)
    state = CheckpointState(
        step=step,
        samples=step,
        world_size=ranks,
        zero_stage=0,
        selection_metric=selection_metric,
        optimizer_step=step,
        shapes={name: tuple(value.shape) for name, value in weights.items()},
    )
    checkpoint.commit(run, state, disk)
