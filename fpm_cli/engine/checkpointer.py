"""Saves the state of training while training continues, and loads it again.

A save copies this rank's share of the state to host memory; a thread writes the copy while the next steps
run. At most one save is in flight. Every rank writes its own files; the main process waits for the others'
`rank-R.json` to appear, then commits. An error in the thread is raised by the next call.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from fpm_cli import cuda
from fpm_cli.checkpoints import checkpoint
from fpm_cli.checkpoints.checkpoint import CheckpointState, SpikeState
from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.checkpoints.shards import (
    OPTIMIZER,
    WEIGHTS,
    Shard,
    read_shard_facts,
    read_slices,
    write_shard,
)
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine import flat_partitions
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.flat_partitions import FlatPartition
from fpm_cli.engine.start import fill_masters
from fpm_cli.errors import DamagedError, FpmError
from fpm_cli.files import LOCAL_DISK, Disk
from fpm_cli.models.initialise import InitialValues
from fpm_cli.runs.run import Run

MIB = 2**20


class Checkpointer:
    """Saves and loads the state of one engine; every rank has one and calls the same methods."""

    def __init__(self, engine: TrainingEngine, run: Run, config: RunConfig, disk: Disk = LOCAL_DISK):
        self.engine, self.run, self.config, self.disk = engine, run, config, disk
        self.world = engine.world
        self._optimizer = engine.deepspeed.optimizer
        self._partitions = flat_partitions.find_partitions(engine.model, self._optimizer, self.world.rank)
        self._host_copies: dict[str, Tensor] = {}  # allocated by the first save, used by all
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fpm-checkpointer")
        self._save_in_flight: Future[int] | None = None
        self._completed: list[int] = []
        if self.world.is_main_process:
            checkpoint.remove_incomplete(run, self.disk)

    def load(self) -> CheckpointState | None:
        """Load the newest checkpoint of the run into the engine; None where none was ever saved.

        Raises:
            DamagedError: it is damaged, lost, or of another model.
        """
        self.wait()
        folder = find_latest_checkpoint(self.run)
        if folder is None:
            return None
        state = checkpoint.verify_checkpoint(folder, share=(self.world.rank, self.world.size))
        self.world.barrier()  # the other ranks have verified their shares too
        shapes = flat_partitions.parameter_shapes(self.engine.model)
        if state.shapes != shapes:
            name = next(n for n in {**state.shapes, **shapes} if state.shapes.get(n) != shapes.get(n))
            raise DamagedError(
                f"{folder}: {name} is {state.shapes.get(name)} there and {shapes.get(name)} in this model"
            )
        self._load_partitions(folder, state)
        return state

    def load_or_initialise(self, build_network: Callable[[], nn.Module]) -> CheckpointState | None:
        """As `load`; where there is no checkpoint, set the initial weights of the network instead."""
        state = self.load()
        if state is None:
            with torch.device("meta"):
                values = InitialValues(build_network(), self.config)
            fill_masters(self._partitions, values)
            flat_partitions.forget_optimizer_states(self._partitions, self._optimizer)
            flat_partitions.refresh_model_weights(self._optimizer)
        return state

    def _load_partitions(self, folder: Path, state: CheckpointState) -> None:
        places = {part.parameter: (owner, part) for owner in self._partitions for part in owner.slices}
        wanted = {name: (part.parameter_offset, part.num_elements) for name, (_, part) in places.items()}

        def elements(flat: Tensor, name: str) -> Tensor:
            _, part = places[name]
            return flat[part.partition_offset : part.partition_offset + part.num_elements]

        def master(name: str, _: str) -> Tensor:
            return elements(places[name][0].master.detach().view(-1), name)

        def optimizer_state(name: str, key: str) -> Tensor:
            return elements(flat_partitions.optimizer_state(places[name][0], self._optimizer, key), name)

        read_slices(folder, WEIGHTS, wanted, master)
        if state.optimizer_step:  # imported weights come without optimizer states
            read_slices(folder, OPTIMIZER, wanted, optimizer_state)
            flat_partitions.set_optimizer_step(self._partitions, self._optimizer, state.optimizer_step)
        else:
            flat_partitions.forget_optimizer_states(self._partitions, self._optimizer)
        flat_partitions.set_loss_scaler(self._optimizer, state.loss_scaler)
        flat_partitions.refresh_model_weights(self._optimizer)
        self.engine.deepspeed.global_steps = state.step
        self.engine.deepspeed.global_samples = state.samples

    def require_space(self, first_step: int) -> None:
        """Check that the disk can hold the checkpoints to keep, and the one being written.

        Raises:
            FpmError: says how much is needed and how much is free.
        """
        owned = [part for number, part in enumerate(self._partitions) if self._owns(number, part)]
        owned_bytes = sum(3 * part.master.numel() * part.master.element_size() for part in owned)
        size = int(self.world.sum([float(owned_bytes)])[0])
        train, engine = self.config.train, self.config.engine
        num_saves = -(-(train.steps - first_step) // train.save_every)
        num_kept = min(num_saves, engine.keep_last + engine.keep_best + 1) + len(train.keep_steps)
        present = sum(f.stat().st_size for f in self.run.checkpoints.rglob("*") if f.is_file())
        free = shutil.disk_usage(self.run.checkpoints).free
        if free + present < num_kept * size:
            raise FpmError(
                f"{self.run.checkpoints}: {num_kept} checkpoints of {size / MIB:,.0f} MiB need "
                f"{num_kept * size / MIB:,.0f} MiB, and {free / MIB:,.0f} MiB are free on that disk; "
                f"free some space, or lower engine.keep_last ({engine.keep_last})"
            )

    def _owns(self, number: int, partition: FlatPartition) -> bool:
        return not partition.replicated or number % self.world.size == self.world.rank

    def save(
        self, step: int, selection_metric: float | None = None, spikes: SpikeState | None = None
    ) -> None:
        """Save the state after `step` optimizer steps; a crash at any moment leaves the previous save.

        Returns as soon as training can continue. `poll_completed` and `wait` say when it is durable.

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
            selection_metric=selection_metric,
            optimizer_step=flat_partitions.optimizer_step(self._partitions, self._optimizer),
            loss_scaler=flat_partitions.loss_scaler_state(self._optimizer),
            spikes=spikes or SpikeState(),
            shapes=flat_partitions.parameter_shapes(self.engine.model),
        )
        shard = flat_partitions.build_shard(
            self._partitions, self._optimizer, self.world.rank, self.world.size
        )
        if self.world.is_main_process:
            with self._describing_errors(step):
                checkpoint.create_temporary_folder(self.run, step, self.disk)
        self.world.barrier()  # no rank writes before the folder is new and empty
        if in_background := self._can_write_in_background(shard):
            shard = self._copy_to_host(shard)
        self._save_in_flight = self._thread.submit(self._write, shard, state)
        if not in_background:
            self._save_in_flight.exception()  # waits; the next poll_completed or wait raises it

    def poll_completed(self) -> list[int]:
        """The steps whose checkpoints have become durable since the last call; never waits.

        Raises:
            FpmError, DivergedError: as `save`.
        """
        if self._save_in_flight is not None and self._save_in_flight.done():
            self.wait()
        completed, self._completed = self._completed, []
        return completed

    def wait(self) -> None:
        """Wait until the save in flight is durable.

        Raises:
            FpmError, DivergedError: as `save`.
        """
        if self._save_in_flight is not None:
            save, self._save_in_flight = self._save_in_flight, None
            self._completed.append(save.result())

    def close(self) -> None:
        """Let the save in flight finish; an error in it is not raised, as another one may be on its way."""
        self._thread.shutdown()

    def _write(self, shard: Shard, state: CheckpointState) -> int:
        """In the thread: write this rank's files; the main process then completes the checkpoint."""
        with self._describing_errors(state.step):
            folder = checkpoint.temporary_folder(self.run, state.step)
            write_shard(folder, self.world.rank, shard, self.disk)
            if self.world.is_main_process:
                self._wait_for_shards(folder)
                checkpoint.commit(self.run, state, self.disk)
                engine, train = self.config.engine, self.config.train
                checkpoint.prune(
                    self.run,
                    keep_last=engine.keep_last,
                    keep_best=engine.keep_best,
                    keep_steps=train.keep_steps,
                    disk=self.disk,
                )
        return state.step

    def _wait_for_shards(self, folder: Path) -> None:
        """A large shard may take longer to write than the timeout: it counts from the last byte written."""
        timeout = self.config.engine.timeout_seconds
        last_size, deadline = -1, time.monotonic() + timeout
        for rank in range(self.world.size):
            while read_shard_facts(folder, rank) is None:
                if (size := _folder_size(folder)) != last_size:
                    last_size, deadline = size, time.monotonic() + timeout
                if time.monotonic() > deadline:
                    raise FpmError(
                        f"{folder}: rank {rank} has not written its shard, and nothing was written for "
                        f"{timeout:,.0f} s; all ranks must see the same folder"
                    )
                time.sleep(0.005)

    def _can_write_in_background(self, shard: Shard) -> bool:
        """Whether the configuration asks for it and the host has room for the copies of all its ranks."""
        if not self.config.engine.async_save:
            return False
        share = psutil.virtual_memory().available / self.world.local_size
        return bool(self._host_copies) or share > 1.5 * _num_bytes(shard)

    def _copy_to_host(self, shard: Shard) -> Shard:
        """The shard in host memory, which the next steps do not change."""

        def copy(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
            return {name: self._copy_tensor(f"{kind}/{name}", tensor) for name, tensor in tensors.items()}

        copied = Shard(copy(shard.weights, WEIGHTS), copy(shard.optimizer_states, OPTIMIZER), shard.slices)
        if self.world.device.type == "cuda":
            cuda.synchronize()
        return copied

    def _copy_tensor(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._host_copies:
            pinned = tensor.device.type == "cuda"
            self._host_copies[name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        return self._host_copies[name].copy_(tensor, non_blocking=True)

    @contextmanager
    def _describing_errors(self, step: int) -> Iterator[None]:
        """Turn an OSError into one that says what remains; removes the incomplete files if it can."""
        try:
            yield
        except OSError as error:
            free = shutil.disk_usage(self.run.path).free
            shutil.rmtree(checkpoint.temporary_folder(self.run, step), ignore_errors=True)
            raise FpmError(
                f"the checkpoint of step {step} could not be written ({error}); {free / MIB:,.0f} MiB were "
                f"free on that disk. The checkpoint before it is complete; --resume continues from there"
            ) from error


def _folder_size(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a temporary file that was just renamed
            size += path.stat().st_size
    return size


def _num_bytes(shard: Shard) -> int:
    tensors = [*shard.weights.values(), *shard.optimizer_states.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
