"""Two processes on two cores against one process: wall seconds per training step.

    python -m benchmarks.ranks

Each side is `fpm pretrain` with one thread per process, on the same global batches; losses of both must agree
to 1e-4. The sides take turns; seconds are the medians of the steps after the first ones.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measurements import Measurement, interleave, measurement, parse_arguments, report
from benchmarks.training import PROXIES, proxy
from fpm_cli.corpus.samples import build_sample_corpus
from fpm_cli.runs.metrics import read_rows

SKIPPED = 2  # first steps, in which memory is allocated
TOLERANCE = 1e-4
BATCH = 32  # sequences, so that a rank's share is still a batch


def main() -> None:
    """Time the proxy of each family."""
    options = parse_arguments(__doc__, add_arguments)
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("this benchmark needs two cores")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(preset, Path(folder) / preset, options) for preset in PROXIES]
    report(rows, options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)


def measure(preset: str, folder: Path, options: argparse.Namespace) -> Measurement:
    """One proxy on one and on two processes."""
    folder.mkdir()
    build_sample_corpus(proxy(preset), folder / "corpus")
    losses: dict[int, list[float]] = {}
    seconds = interleave(
        {f"{n}": partial(train, preset, folder, n, options.steps, losses) for n in (1, 2)}, options.rounds
    )
    difference = max(abs(a - b) for a, b in zip(losses[1], losses[2], strict=True))
    print(f"proxy of {preset}: losses differ by {difference:.1e}", flush=True)
    if difference > TOLERANCE:
        raise SystemExit(f"proxy of {preset}: one and two processes train differently")
    return measurement(
        "two processes", f"proxy of {preset}, {BATCH} sequences", "one process", seconds["2"], seconds["1"],
        threads=2, asked=1.7, limit="2x",
    )  # fmt: skip


def train(preset: str, folder: Path, nproc: int, steps: int, losses: dict[int, list[float]]) -> float:
    """Wall seconds per step of one run, whose losses are kept."""
    out = folder / f"run-{nproc}-{len(list(folder.iterdir()))}"
    settings = {
        "train.steps": steps,
        "train.global_batch": BATCH,
        "train.warmup_steps": 1,
        "train.save_every": steps,
        "train.eval_every": steps,
        "train.log_every": 1,
        "engine.zero_stage": 0,
        "engine.precision": "fp32",
    }
    command = [sys.executable, "-m", "fpm_cli", "-q", "pretrain", "--preset", preset, "--proxy"]
    command += ["--corpus", str(folder / "corpus"), "--out", str(out), "--nproc", str(nproc)]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    rows = read_rows(out / "metrics.jsonl", "train")
    losses[nproc] = [float(row["loss"]) for row in rows]
    return statistics.median(float(row["seconds"]) for row in rows[SKIPPED:])


if __name__ == "__main__":
    main()
