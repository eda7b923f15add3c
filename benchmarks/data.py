"""Reading and sampling a batch as a share of the training step, for the proxy of each family.

    python -m benchmarks.data

One thread; CPU seconds of making the micro-batches of a global batch, and of the step that trains on them. In
training the batches of the next step are made in a thread beside the current one.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from benchmarks.measurements import Measurement, measurement, parse_arguments, report
from benchmarks.training import PROXIES, proxy, sample_run
from fpm_cli.config.batch_split import split_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.pretraining import Pretraining
from fpm_cli.engine.world import distributed_world
from fpm_cli.launch.placement import keep_freed_memory
from fpm_cli.models.build import build_model

WARM_UP = 2  # rounds that are not counted


def main() -> None:
    """Time the proxy of each family."""
    options = parse_arguments(__doc__, add_arguments)
    keep_freed_memory(large_blocks=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for preset in PROXIES for row in measure(preset, Path(folder) / preset, options)]
    report(rows, options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--rounds", type=int, default=15)


def measure(preset: str, folder: Path, options: argparse.Namespace) -> Iterator[Measurement]:
    """One proxy: its batches against its steps."""
    folder.mkdir()
    config = proxy(preset)
    run, _ = sample_run(folder, config)
    loading: list[float] = []
    training: list[float] = []
    with distributed_world(60.0) as world:
        workload, split = Pretraining(run), split_batch(config.train, 1)
        engine = TrainingEngine(build_model(config), config, world)
        for index in count():
            if index == WARM_UP + options.rounds:
                break
            began = time.process_time()
            batches = workload.micro_batches(index, split, world)
            loaded = time.process_time()
            engine.step(batches, config.train.lr)
            loading.append(loaded - began)
            training.append(time.process_time() - loaded)
    yield measurement(
        "loading and sampling",
        f"proxy of {preset}, {config.train.global_batch} x {config.train.sequence_length}",
        "its training step",
        loading[WARM_UP:],
        training[WARM_UP:],
        asked=50.0,
        limit="50x: 2 % of the step",
    )


if __name__ == "__main__":
    main()
