"""The compiled operators beside PyTorch's eager composition, forward and backward with dropout 0.1.

    python -m benchmarks.kernels [--rounds 15] [--out kernels.json]

Every shape of `fpm kernels bench` and every shape of the twenty proxies, with one thread and with two, in one
run. Both forms are timed in turns, with the same allocator settings; ratios are medians over rounds, with
quartiles. With one thread the time is the process's own, else the clock's.
"""

import argparse

from benchmarks.measurements import Measurement, parse_arguments, report
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


def asked(timing: Timing) -> float | None:
    """The ratio that is aimed at: no shape of a proxy may be slower than PyTorch.

    None is for an operator within a compiled layer, whose time has no autograd while PyTorch's has.
    """
    if timing.operator.endswith("in a layer"):
        return None
    if timing.shape not in map(str, SHAPES):
        return 1.0
    if timing.operator == "attention":
        return 1.5 if timing.shape.startswith("encdec") else 1.8
    return {"residual_norm": 3.0, "bias_gelu": 1.8}.get(timing.operator.split()[0])


def row(timing: Timing) -> Measurement:
    """One operator on one shape, in the form of all benchmarks."""
    return Measurement(
        part="operator, forward and backward",
        case=f"{timing.operator}, {timing.shape}",
        peer="PyTorch's composition",
        ratio=timing.ratio,
        quartiles=timing.ratio_quartiles,
        value=timing.compiled_seconds,
        peer_value=timing.composed_seconds,
        threads=timing.threads,
        asked=asked(timing),
        limit=f"{timing.bandwidth_share:.0%} of the memory bandwidth",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--without-proxies", action="store_true", help="no proxies' shapes")


def main() -> None:
    """Time, print, and write the numbers as JSON if asked."""
    options = parse_arguments(__doc__, add_arguments)
    library = cpu_library()
    if not library.is_loaded:
        raise SystemExit(library.reason)
    keep_freed_memory(large_blocks=True)  # for both sides: a large tensor is not of fresh pages each time
    shapes = [*SHAPES, *([] if options.without_proxies else proxy_shapes())]
    timings = (
        timing
        for threads in options.threads
        for timing in time_shapes(shapes, threads=threads, rounds=options.rounds)
    )
    report(map(row, timings), options.out)


if __name__ == "__main__":
    main()
