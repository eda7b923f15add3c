"""How long commands that train nothing take, beside importing torch, which they do without.

    python -m benchmarks.startup

Wall seconds of a new process with a warm file cache, in turns. Every command must end with status 0.
"""

import argparse
import subprocess
import sys
import time
from functools import partial

from benchmarks.measurements import Measurement, interleave, measurement, parse_arguments, report

LIMITS = {  # seconds that are asked for
    "--help": 0.25,
    "presets list": 0.5,
    "cost-report": 0.5,
    "plan --budget 1 --device A100-40": 0.5,
    "pretrain --preset CPM-X-L --dry-run --device A100-80 --devices 16": 0.5,
}
IMPORT_TORCH = [sys.executable, "-c", "import torch"]


def main() -> None:
    """Time the commands."""
    options = parse_arguments(__doc__, add_arguments)
    commands = {name: [sys.executable, "-m", "fpm_cli", *name.split()] for name in LIMITS}
    sides = {name: partial(seconds, command) for name, command in commands.items()}
    interleave(sides, 1)  # fills the file cache
    times = interleave({**sides, "torch": partial(seconds, IMPORT_TORCH)}, options.rounds)
    rows: list[Measurement] = [
        measurement(
            "start-up", f"fpm {name}", "python -c 'import torch'", times[name], times["torch"],
            limit=f"asked: {limit} s",
        )
        for name, limit in LIMITS.items()
    ]  # fmt: skip
    report(rows, options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--rounds", type=int, default=7)


def seconds(command: list[str]) -> float:
    """Wall seconds from start to end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
