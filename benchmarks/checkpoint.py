"""What a checkpoint costs: `python -m benchmarks.checkpoint [--folder F] [--repeats N]`.

Three ratios of one run, medians of alternating trials, on a state of some 650 MB in a real engine:
how long an asynchronous save holds training up, over a copy of the same tensors in memory; and how fast a
blocking save is, over writing the same bytes with one fsync, and over torch.save of the same tensors with
one fsync. What a trial wrote is removed outside the timed part.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measurements import Measurement, measurement, parse_arguments, report
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


def measure(folder: Path, repeats: int) -> list[Measurement]:
    """The three ratios."""
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
            seconds = {
                "copy": seconds_of(copy),
                "asynchronous": seconds_of(lambda: behind.save(2 * trial)),  # noqa: B023
            }
            behind.wait()
            behind.poll_completed()
            clear(folder, run)
            for name, write in ways[trial % 3 :] + ways[: trial % 3]:  # whichever goes first
                seconds[name] = seconds_of(lambda: write(trial))  # noqa: B023
                clear(folder, run)
            if trial:  # the first one allocates
                for name, value in seconds.items():
                    times.setdefault(name, []).append(value)
        behind.close()
        blocking.close()
    case = f"{size / 1e6:,.0f} MB in {len(tensors)} tensors"
    return [
        measurement("checkpoint", f"{name}, {case}", peer, times[side], times[other], threads=2, asked=asked)
        for name, side, peer, other, asked in (
            ("stall of an asynchronous save", "asynchronous", "copy in memory", "copy", 0.83),
            ("blocking save", "blocking", "the same bytes with one fsync", "raw", 0.9),
            ("blocking save", "blocking", "torch.save with one fsync", "torch.save", 1.5),
        )
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--folder", type=Path, help="on the disk to measure; by default a temporary one")
    parser.add_argument("--repeats", type=int, default=7)


def main() -> None:
    """Measure in a temporary folder."""
    options = parse_arguments(__doc__, add_arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report(measure(Path(folder), options.repeats), options.out)


if __name__ == "__main__":
    main()
