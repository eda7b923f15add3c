"""The compiled operators beside PyTorch's eager composition, forward and backward with dropout 0.1.

    python benchmarks/kernels.py [--rounds 15] [--out kernels.json]

Every shape of `fpm kernels bench` and every shape of the twenty proxies, with one thread and with two, in one
run. Both forms are timed in turns, with the same allocator settings; ratios are medians over rounds, with
quartiles. With one thread the time is the process's own, else the clock's. Prints one line for each operator,
shape and number of threads, then the smallest ratio of each operator.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this folder: `kernels` is also the name of a package that transformers looks for

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.launch.placement import keep_freed_memory
from fpm_cli.ops.bench import SHAPES, Shape, Timing, time_shapes
from fpm_cli.ops.selection import cpu_library

THREADS = (1, 2)


def proxy_shapes() -> list[Shape]:
    """The different shapes of the layers of the twenty proxies."""
    return list(
        dict.fromkeys(
            shape
            for name in preset_names()
            for shape in shapes_of(resolve(name, proxy=True, environment={}).config)
        )
    )


def shapes_of(config: RunConfig) -> list[Shape]:
    """One shape, or for an encoder-decoder one per stack."""
    model, train = config.model, config.train
    lengths = [train.sequence_length, *([train.decoder_length] if train.decoder_length else [])]
    batch = min(train.micro_batch, train.global_batch)
    sizes = model.num_heads, model.head_size, model.ffn_size
    return [Shape(config.family, batch, length, *sizes) for length in lengths]


def line(timing: Timing) -> str:
    """One row of the printed table."""
    low, high = timing.ratio_quartiles
    return (
        f"{timing.operator:16} {timing.shape:34} {timing.threads} threads "
        f"{1000 * timing.compiled_seconds:9.3f} ms, PyTorch {1000 * timing.composed_seconds:9.3f} ms, "
        f"{timing.ratio:5.2f}x ({low:.2f} to {high:.2f}), {timing.bandwidth_share:4.0%} of the bandwidth"
    )


def main() -> None:
    """Time, print, and write the numbers as JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    library = cpu_library()
    if not library.is_loaded:
        raise SystemExit(library.reason)
    keep_freed_memory()  # for both sides: a large tensor is not made of fresh pages each time
    print(f"{library.path.parent.name}, {library.instruction_set}")
    timings = []
    for threads in arguments.threads:
        for timing in time_shapes([*SHAPES, *proxy_shapes()], threads=threads, rounds=arguments.rounds):
            timings.append(timing)
            print(line(timing), flush=True)
    for operator in dict.fromkeys(timing.operator for timing in timings):
        worst = min(
            (timing for timing in timings if timing.operator == operator), key=lambda each: each.ratio
        )
        print(f"smallest ratio of {operator}: {worst.ratio:.2f}x ({worst.shape}, {worst.threads} threads)")
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(timing) for timing in timings], indent=1))


if __name__ == "__main__":
    main()
