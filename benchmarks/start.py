"""How long a start takes: `python -m benchmarks.start [--preset CPM-X-L] [--layers 2] [--stage 3]`.

Builds the whole preset on the `meta` device, then starts its first layers in full width in this process:
build, shard, optimizer, initial weights. Prints seconds per billion parameters, and what follows for the
whole preset on the paper's GPUs: every rank builds and shards all modules, and draws its own share of the
weights on one processor core. How long DeepSpeed wraps the network on a GPU is not known.
"""

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.resident_memory import peak_bytes, reset_peak
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.flat_partitions import find_partitions, refresh_model_weights
from fpm_cli.engine.start import allocate_network, fill_masters
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_network, build_skeleton
from fpm_cli.models.initialise import InitialValues

BILLION, GIB = 1e9, 2**30
Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds and the result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="CPM-X-L")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--precision", default="bf16")
    given = parser.parse_args()
    torch.set_num_threads(1)
    whole = resolve(given.preset, environment={}).config
    all_parameters = count_parameters(whole)
    described, _ = timed(lambda: InitialValues(build_skeleton(whole), whole))
    print(f"{given.preset} on meta, {all_parameters:,} parameters: {described:.2f} s")
    values = [f"model.num_layers={given.layers}", f"engine.zero_stage={given.stage}"]
    values += [f"engine.precision={given.precision}", "train.global_batch=1", "train.micro_batch=1"]
    config = resolve(given.preset, environment={}, assignments=values).config
    parameters = count_parameters(config)
    with distributed_world(600) as world:
        reset_peak()
        built, network = timed(lambda: allocate_network(lambda: build_network(config), config, world))
        wrapped, engine = timed(lambda: TrainingEngine(network, config, world))
        partitions = find_partitions(network, engine.deepspeed.optimizer, world.rank)
        initial = InitialValues(build_skeleton(config), config)
        drawn, _ = timed(lambda: fill_masters(partitions, initial))
        refreshed, _ = timed(lambda: refresh_model_weights(engine.deepspeed.optimizer))
        peak = peak_bytes()
    seconds = {"build and shard": built, "wrap": wrapped, "draw": drawn, "refresh": refreshed}
    print(f"{given.layers} layers, {parameters:,} parameters, ZeRO {given.stage}, {given.precision}, 1 rank:")
    for name, value in seconds.items():
        print(f"  {name}: {value:.2f} s, {value / parameters * BILLION:.1f} s per billion parameters")
    total = sum(seconds.values())
    print(f"  together {total:.2f} s, {total / parameters * BILLION:.1f} s per billion parameters")
    print(f"  peak {peak / GIB:.2f} GiB resident")
    assert whole.paper
    share = all_parameters / whole.paper.gpus / parameters
    print(
        f"extrapolated to {given.preset} on {whole.paper.gpus} ranks with a core each: "
        f"{described + built * all_parameters / parameters + (drawn + refreshed) * share:.0f} s, of which "
        f"{drawn * share:.0f} s draw {all_parameters / whole.paper.gpus:,.0f} values"
    )


if __name__ == "__main__":
    main()
