"""Saving while training goes on, and loading again: between DeepSpeed's state and the files.

A save copies this rank's share of the state to host memory; a thread writes the copy while the next steps
run. At most one save is in flight. Every rank writes its own files; the leading rank waits for the
others' maps to appear, then commits. What goes wrong in the thread is raised at the next step or save.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from torch import Tensor

from fpm_cli.checkpoints import checkpoint
from fpm_cli.checkpoints.checkpoint import CheckpointState, SpikeState
from fpm_cli.checkpoints.shards import OPTIMIZER, WEIGHTS, Shard, read_stretches, shard_facts, write_shard
from fpm_cli.checkpoints.storage import LOCAL, Disk
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine import leaves
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.errors import DamagedError, FpmError
from fpm_cli.runs.run import Run

MIB = 2**20


class Saver:
    """Saves and loads the state of one engine; every rank has one and calls the same methods."""

    def __init__(self, engine: TrainingEngine, run: Run, config: RunConfig, disk: Disk = LOCAL):
        self.engine, self.run, self.config, self.disk = engine, run, config, disk
        self.world = engine.world
        self._optimizer = engine.deepspeed.optimizer
        self._leaves = leaves.leaves_of(engine.model, self._optimizer, self.world.rank)
        self._host: dict[str, Tensor] = {}  # where the copies go, save after save
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fpm-saver")
        self._pending: Future[int] | None = None
        self._durable: list[int] = []
        if self.world.leads:
            checkpoint.clean(self.disk, run)

    def load(self) -> CheckpointState | None:
        """Bring the engine to the newest checkpoint of the run; None where none was ever saved.

        Raises:
            DamagedError: it is damaged, or of another model.
        """
        self.wait()
        folder = checkpoint.latest_checkpoint(self.run)
        if folder is None:
            return None
        state = checkpoint.verify_checkpoint(folder, share=(self.world.rank, self.world.size))
        self.world.barrier()  # the other ranks' shares have matched too
        shapes = leaves.shapes_of(self.engine.model)
        if state.shapes != shapes:
            name = next(n for n in {**state.shapes, **shapes} if state.shapes.get(n) != shapes.get(n))
            raise DamagedError(
                f"{folder}: {name} is {state.shapes.get(name)} there and {shapes.get(name)} in this model"
            )
        self._fill(folder, state)
        return state

    def _fill(self, folder: Path, state: CheckpointState) -> None:
        places = {s.name: (leaf, s) for leaf in self._leaves for s in leaf.stretches}
        wanted = {name: (s.offset, s.length) for name, (_, s) in places.items()}

        def master(name: str, _: str) -> Tensor:
            leaf, stretch = places[name]
            return leaf.master.detach().view(-1)[stretch.start : stretch.start + stretch.length]

        def moment(name: str, key: str) -> Tensor:
            leaf, stretch = places[name]
            flat = leaves.moment(leaf, self._optimizer, key)
            return flat[stretch.start : stretch.start + stretch.length]

        read_stretches(folder, WEIGHTS, wanted, master)
        if state.optimizer_step:  # imported weights come without
            read_stretches(folder, OPTIMIZER, wanted, moment)
            leaves.set_optimizer_step(self._leaves, self._optimizer, state.optimizer_step)
        leaves.set_loss_scaler(self._optimizer, state.loss_scaler)
        leaves.refresh(self._optimizer)
        self.engine.deepspeed.global_steps = state.step
        self.engine.deepspeed.global_samples = state.samples

    def require_space(self, first_step: int) -> None:
        """Refuse to begin what the disk cannot hold: the checkpoints to keep, and the one being written.

        Raises:
            FpmError: says how much is needed and how much is free.
        """
        own = [leaf for n, leaf in enumerate(self._leaves) if self._is_ours(n, leaf)]
        bytes_here = sum(3 * leaf.master.numel() * leaf.master.element_size() for leaf in own)
        size = int(self.world.sum([float(bytes_here)])[0])
        train, engine = self.config.train, self.config.engine
        saves = -(-(train.steps - first_step) // train.save_every)
        number = min(saves, engine.keep_last + engine.keep_best + 1)
        there = sum(f.stat().st_size for f in self.run.checkpoints.rglob("*") if f.is_file())
        free = shutil.disk_usage(self.run.checkpoints).free
        if free + there < number * size:
            raise FpmError(
                f"{self.run.checkpoints}: {number} checkpoints of {size / MIB:,.0f} MiB need "
                f"{number * size / MIB:,.0f} MiB, and {free / MIB:,.0f} MiB are free on that disk; "
                f"make room, or lower engine.keep_last ({engine.keep_last})"
            )

    def _is_ours(self, number: int, leaf: leaves.Leaf) -> bool:
        return not leaf.replicated or number % self.world.size == self.world.rank

    def save(self, step: int, validation_loss: float | None = None, spikes: SpikeState | None = None) -> None:
        """Save the state after `step` optimizer steps; a crash at any moment leaves the one before.

        Returns as soon as training can go on. `news` and `wait` say when it is durable.

        Raises:
            FpmError: this save, or the one before, could not be written.
            DivergedError: the state is not finite; it is not saved.
        """
        self.wait()
        state = CheckpointState(
            step=step,
            samples=step * self.config.train.global_batch,
            world_size=self.world.size,
            zero_stage=self.config.engine.zero_stage,
            validation_loss=validation_loss,
            optimizer_step=leaves.optimizer_step(self._leaves, self._optimizer),
            loss_scaler=leaves.loss_scaler_of(self._optimizer),
            spikes=spikes or SpikeState(),
            shapes=leaves.shapes_of(self.engine.model),
        )
        shard = leaves.shard_of(self._leaves, self._optimizer, self.world.rank, self.world.size)
        if self.world.leads:
            with self._explained(step):
                checkpoint.begin(self.disk, self.run, step)
        self.world.barrier()  # nobody writes before the folder is new and empty
        if behind := self._fits_behind(shard):
            shard = self._copied(shard)
        self._pending = self._pool.submit(self._write, shard, state)
        if not behind:
            self._pending.exception()  # waits; raised where the caller looks for news

    def news(self) -> list[int]:
        """The steps whose checkpoints have become durable since the last call; never waits.

        Raises:
            FpmError, DivergedError: as `save`.
        """
        if self._pending is not None and self._pending.done():
            self.wait()
        durable, self._durable = self._durable, []
        return durable

    def wait(self) -> None:
        """Until the save in flight is durable.

        Raises:
            FpmError, DivergedError: as `save`.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._durable.append(pending.result())

    def close(self) -> None:
        """Let the save in flight end; what goes wrong now is not worth more than what already did."""
        self._pool.shutdown()

    def _write(self, shard: Shard, state: CheckpointState) -> int:
        """In the thread: this rank's files, and on the leading rank what makes them a checkpoint."""
        with self._explained(state.step):
            folder = checkpoint.temporary_folder(self.run, state.step)
            write_shard(self.disk, folder, self.world.rank, shard)
            if self.world.leads:
                self._await_others(folder)
                checkpoint.commit(self.disk, self.run, state)
                keep = self.config.engine
                checkpoint.prune(self.disk, self.run, keep_last=keep.keep_last, keep_best=keep.keep_best)
        return state.step

    def _await_others(self, folder: Path) -> None:
        deadline = time.monotonic() + self.config.engine.timeout_seconds
        for rank in range(self.world.size):
            while shard_facts(folder, rank) is None:
                if time.monotonic() > deadline:
                    raise FpmError(
                        f"{folder}: rank {rank} has not written its share within "
                        f"{self.config.engine.timeout_seconds:,.0f} s; all ranks must see the same folder"
                    )
                time.sleep(0.005)

    def _fits_behind(self, shard: Shard) -> bool:
        """Whether to write behind the next steps: asked for, and the host has room for a copy."""
        if not self.config.engine.async_save:
            return False
        return bool(self._host) or psutil.virtual_memory().available > 1.5 * _bytes(shard)

    def _copied(self, shard: Shard) -> Shard:
        """The shard in host memory, which the steps to come do not change."""

        def copy(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
            return {name: self._copy(f"{kind}/{name}", tensor) for name, tensor in tensors.items()}

        copied = Shard(copy(shard.weights, WEIGHTS), copy(shard.moments, OPTIMIZER), shard.stretches)
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()
        return copied

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._host:
            pinned = tensor.device.type == "cuda"
            self._host[name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        return self._host[name].copy_(tensor, non_blocking=True)

    @contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """A failed save says what it was and what is left, and leaves nothing half-written if it can."""
        try:
            yield
        except OSError as error:
            free = shutil.disk_usage(self.run.path).free
            shutil.rmtree(checkpoint.temporary_folder(self.run, step), ignore_errors=True)
            raise FpmError(
                f"the checkpoint of step {step} could not be written ({error}); {free / MIB:,.0f} MiB were "
                f"free on that disk. The checkpoint before it is whole; --resume goes on from there"
            ) from error


def _bytes(shard: Shard) -> int:
    tensors = [*shard.weights.values(), *shard.moments.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
