"""Trains one rank of a run: joins the process group, makes workload and trainer, and starts the loop."""

import hashlib
import time
from contextlib import closing

from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.deterministic import deterministic_algorithms
from fpm_cli.engine.pretraining import Pretraining
from fpm_cli.engine.trainer import Trainer
from fpm_cli.engine.workload import Workload
from fpm_cli.engine.world import World, distributed_world
from fpm_cli.errors import DamagedError
from fpm_cli.launch.heartbeat import Heartbeat
from fpm_cli.launch.placement import keep_freed_memory
from fpm_cli.runs.run import Run


def train(
    run: Run,
    heartbeat: Heartbeat,
    workload_type: type[Workload] | None = None,
    *,
    quiet: bool = False,
    began: float | None = None,
    launched: bool = False,
) -> None:
    """Train `run` from its newest checkpoint, or from the start, to its last step; every rank calls this.

    Args:
        run: the run folder.
        heartbeat: reports this rank's step and receives shutdown requests.
        workload_type: what to train; by default `run` is pretrained.
        quiet: print no progress.
        launched: this process is one of several ranks, which its environment describes.
        began: time.time() when the launch began, from which a wall-clock budget counts; by default now.

    Raises:
        StoppedError: a shutdown was requested; the state is saved and `--resume` continues.
        DivergedError: loss or gradient are not finite, or spike, and do not stop; that state is not saved.
    """
    began, config = began or time.time(), run.config()
    with distributed_world(config.engine.timeout_seconds, launched=launched) as world:
        _require_same_config(config, world)
        workload = (workload_type or Pretraining)(run)
        keep_freed_memory(large_blocks=workload.keeps_large_blocks)
        with (
            deterministic_algorithms(config.engine.deterministic),
            closing(Trainer(run, heartbeat, workload, world, quiet=quiet, began=began)) as trainer,
        ):
            trainer.train()


def _require_same_config(config: RunConfig, world: World) -> None:
    """Refuse to train with ranks that read another config.toml than rank 0: nodes must share the folder."""
    digest = hashlib.sha256(config.model_dump_json().encode()).digest()
    number = float(int.from_bytes(digest[:6], "big"))  # exact in float64
    if world.sum([number if world.is_main_process else 0.0])[0] != number:
        raise DamagedError(f"rank {world.rank} on this node read another config.toml than rank 0")
