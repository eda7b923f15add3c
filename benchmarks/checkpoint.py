"""What a checkpoint costs: `python benchmarks/checkpoint.py [--folder F] [--repeats N]`.

Three ratios of one run, medians of alternating trials, on a state of some 650 MB in a real engine:
how long an asynchronous save holds training up, over a copy of the same tensors in memory; and how fast a
blocking save is, over writing the same bytes with one fsync, and over torch.save of the same tensors with
one fsync. What a trial wrote is removed outside the timed part.
"""

import sys

sys.path.pop(0)  # this folder: a file in it would hide the standard library's `tokenize`

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fpm_cli.checkpoints.shards import Shard
from fpm_cli.config.resolve import resolve
from fpm_cli.engine import flat_partitions
from fpm_cli.engine.checkpointer import Checkpointer
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model
from fpm_cli.runs.run import Run

SIZES = (
    "model.num_layers=12",
    "model.hidden_size=512",
    "model.ffn_size=2048",
    "model.vocab_size=30000",
    "engine.keep_last=1000",
)


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def raw_write(tensors: list[torch.Tensor], path: Path) -> None:
    """The same bytes, one file, one fsync, nothing else."""
    with path.open("wb", buffering=0) as file:
        for tensor in tensors:
            view = tensor.detach().view(torch.uint8).numpy().data
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())


def torch_save(shard: Shard, path: Path) -> None:
    """The same tensors as torch writes them, one fsync."""
    with path.open("wb") as file:
        torch.save({**shard.weights, **shard.optimizer_states}, file)
        file.flush()
        os.fsync(file.fileno())


def clear(folder: Path, run: Run) -> None:
    """Remove what was written, so that everyone writes new files on a disk that is at rest."""
    for path in [*folder.glob("raw-*"), *folder.glob("torch-*")]:
        path.unlink()
    for path in run.checkpoints.iterdir():
        shutil.rmtree(path)
    os.sync()


def measure(folder: Path, repeats: int) -> None:
    """Print the medians and the three ratios."""
    config = resolve("BERT-E-S", proxy=True, environment={}, assignments=SIZES).config
    run = Run.create(folder / "run", config, None)
    with distributed_world(60) as world:
        engine = TrainingEngine(build_model(config, world.device), config, world)
        behind = Checkpointer(engine, run, config)
        blocking_config = config.model_copy(
            update={"engine": config.engine.model_copy(update={"async_save": False})}
        )
        blocking = Checkpointer(engine, run, blocking_config)
        optimizer, own = engine.deepspeed.optimizer, behind._partitions
        for partition in own:  # as after a step
            for key in ("exp_avg", "exp_avg_sq"):
                flat_partitions.optimizer_state(partition, optimizer, key).uniform_()
        flat_partitions.set_optimizer_step(own, optimizer, 1.0)
        shard = flat_partitions.build_shard(own, optimizer, 0, 1)
        tensors = [*shard.weights.values(), *shard.optimizer_states.values()]
        copies = [tensor.clone() for tensor in tensors]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)

        def copy() -> None:
            for target, source in zip(copies, tensors, strict=True):
                target.copy_(source)

        def write_blocking(trial: int) -> None:
            blocking.save(2 * trial + 1)
            blocking.poll_completed()

        ways: list[tuple[str, Callable[[int], object]]] = [
            ("blocking", write_blocking),
            ("raw", lambda trial: raw_write(tensors, folder / f"raw-{trial}")),
            ("torch.save", lambda trial: torch_save(shard, folder / f"torch-{trial}")),
        ]
        times: dict[str, list[float]] = {}
        for trial in range(repeats + 1):
            found = {
                "copy": seconds_of(copy),
                "asynchronous": seconds_of(lambda: behind.save(2 * trial)),  # noqa: B023
            }
            behind.wait()
            behind.poll_completed()
            clear(folder, run)
            for name, write in ways[trial % 3 :] + ways[: trial % 3]:  # whichever goes first
                found[name] = seconds_of(lambda: write(trial))  # noqa: B023
                clear(folder, run)
            if trial:  # the first one allocates
                for name, seconds in found.items():
                    times.setdefault(name, []).append(seconds)
        behind.close()
        blocking.close()
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"state {size / 1e6:,.0f} MB in {len(tensors)} tensors, {repeats} trials each, medians")
    for name, seconds in median.items():
        print(f"  {name:<13} {seconds * 1e3:8.1f} ms  {size / seconds / 1e9:6.2f} GB/s")
    print(
        f"asynchronous save stalls for {median['asynchronous'] / median['copy']:.2f} x a memory copy (<= 1.2)"
    )
    print(f"blocking save: {median['raw'] / median['blocking']:.2f} x raw write + fsync (>= 0.9)")
    print(f"blocking save: {median['torch.save'] / median['blocking']:.2f} x torch.save + fsync (>= 1.5)")


def main() -> None:
    """Measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; by default a temporary one")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder), arguments.repeats)


if __name__ == "__main__":
    main()
