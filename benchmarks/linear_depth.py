"""Whether the time and the memory of a training step grow linearly with the number of layers.

    python -m benchmarks.linear_depth

A GPT of width 64 is trained at 2 to 128 layers, every depth in a process of its own, in turns. A straight
line is fitted to the medians by least squares of the relative residuals; each depth's ratio is the line's
value over the measured one, so that 1 is exactly linear. One thread; CPU seconds per step, and peak resident
memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.measurements import Measurement, measurement, parse_arguments, quantity, report

DEPTHS = (2, 8, 24, 48, 90, 128)
WARM_UP = 2


def main() -> None:
    """Measure every depth and fit the lines."""
    options = parse_arguments(__doc__, add_arguments)
    if options.worker:
        print(json.dumps(train(options.worker, options.steps)))
        return
    results: dict[int, list[dict[str, float]]] = {depth: [] for depth in DEPTHS}
    for _ in range(options.rounds):
        for depth in DEPTHS:
            results[depth].append(in_process(depth, options.steps))
    rows: list[Measurement] = []
    for part, unit, name in (("step time", "s", "seconds"), ("peak memory of a step", "MiB", "mib")):
        medians = [statistics.median(each[name] for each in results[depth]) for depth in DEPTHS]
        start, slope = fit_line(DEPTHS, medians)
        fit = f"{quantity(start, unit)} and {quantity(slope, unit)} per layer"
        for depth in DEPTHS:
            values = [each[name] for each in results[depth]]
            line = [start + slope * depth] * len(values)
            rows.append(
                measurement(
                    f"{part} over depth", f"GPT {depth} x 64, 8 x 64", "a straight line", values, line,
                    unit=unit, limit=f"1.00x: linear, {fit}",
                )
            )  # fmt: skip
    report(rows, options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)


def fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope that make the squares of the relative residuals least."""
    slope, start = np.polyfit(x, y, 1, w=1 / np.asarray(y))
    return float(start), float(slope)


def in_process(depth: int, steps: int) -> dict[str, float]:
    """`train` in a new process, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.linear_depth", "--worker", str(depth), "--steps", str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def train(depth: int, steps: int) -> dict[str, float]:
    """Seconds per step, the median, and how far memory rose above that of the libraries."""
    import torch

    from benchmarks.training import proxy
    from fpm_cli.engine.deepspeed_engine import TrainingEngine
    from fpm_cli.engine.world import distributed_world
    from fpm_cli.launch.placement import keep_freed_memory
    from fpm_cli.models.build import build_model

    keep_freed_memory(large_blocks=True)
    sizes = {"model.num_layers": depth, "train.global_batch": 8, "train.micro_batch": 8}
    config = proxy("CPM-X-L", sizes)
    shape = (8, config.train.sequence_length)
    torch.manual_seed(1)
    batch = {
        "tokens": torch.randint(0, config.model.vocab_size, shape),
        "labels": torch.randint(0, config.model.vocab_size, shape),
        "loss_mask": torch.ones(shape),
    }
    with distributed_world(60.0) as world:
        before = peak_mib()
        engine = TrainingEngine(build_model(config), config, world)
        seconds = []
        for _ in range(WARM_UP + steps):
            began = time.process_time()
            engine.step([batch], config.train.lr)
            seconds.append(time.process_time() - began)
        return {"seconds": statistics.median(seconds[WARM_UP:]), "mib": peak_mib() - before}


def peak_mib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
