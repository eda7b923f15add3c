"""Resident memory at full width beside the plan: `python -m benchmarks.true_size --preset CPM-X-L`.

Ranks in processes of their own start (build, shard, optimizer, initial weights), train, save behind a step,
and in new processes load the checkpoint. The kernel's peak of each phase is printed beside the plan, and with
it the losses and a checksum of the initial weights; `--expect FILE` compares those of another run.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.resident_memory import peak_bytes, reset_peak
from fpm_cli.accounting.memory import device_memory
from fpm_cli.accounting.parameters import count_parameters, parameter_shapes
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.checkpointer import Checkpointer
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.flat_partitions import find_partitions
from fpm_cli.engine.start import allocate_network
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import World, distributed_world
from fpm_cli.launch.placement import keep_freed_memory
from fpm_cli.models.build import build_network
from fpm_cli.ops.build import is_built
from fpm_cli.runs.run import Run

GIB = 2**30
STEPS = 3
CHUNK = 2**20
MIX = 0x9E3779B97F4A7C15 - 2**64  # an odd number: another multiple for each element
LR = 1e-4


def settings_of(given: argparse.Namespace) -> list[str]:
    """The preset with fewer layers and short sequences; no dropout, which differs by rank."""
    return [
        *(f"model.num_layers={given.layers}", "model.dropout=0", f"engine.zero_stage={given.stage}"),
        *(f"engine.offload={given.offload}", f"engine.precision={given.precision}"),
        *("train.sequence_length=64", "train.global_batch=4", "train.micro_batch=1"),
        *(["train.decoder_length=32"] if "-2-" in given.preset else []),
        *("train.steps=1000", "train.save_every=10", *given.assignments),
    ]


def checksums(engine: TrainingEngine, world: World) -> dict[str, int]:
    """Of each parameter's masters, a sum over this rank's share that depends on value and place."""
    sums: dict[str, int] = {}
    for partition in find_partitions(engine.model, engine.deepspeed.optimizer, world.rank):
        if partition.replicated and not world.is_main_process:
            continue
        flat = partition.master.detach().view(-1)
        for part in partition.slices:
            for first in range(0, part.num_elements, CHUNK):
                begin = part.partition_offset + first
                bits = flat[begin : begin + min(CHUNK, part.num_elements - first)].view(torch.int32).long()
                places = torch.arange(len(bits), dtype=torch.int64) + part.parameter_offset + first + 1
                total = int((bits * (places * MIX)).sum()) + sums.get(part.parameter, 0)
                sums[part.parameter] = total % 2**64
    return sums


def rank_main(folder: Path, load: bool) -> None:
    """One rank: measure each phase and write what was seen to `rank-R.json`."""
    torch.set_num_threads(1)
    keep_freed_memory(large_blocks=False)  # as a rank of `fpm pretrain` does
    run = Run.open(folder)
    config, peaks = run.config(), {}
    with distributed_world(600, launched=True) as world:
        reset_peak()
        engine = TrainingEngine(allocate_network(lambda: build_network(config), config, world), config, world)
        checkpointer = Checkpointer(engine, run, config)
        checkpointer.load_or_initialise(lambda: build_network(config))
        peaks["loading" if load else "starting"] = peak_bytes()
        sums = checksums(engine, world)
        split = split_batch(config.train, world.size)
        share = [
            {name: value[first : first + split.micro_batch] for name, value in batch.items()}
            for batch in [synthetic_batch(config, config.train.global_batch)]
            for first in range(
                world.rank * split.sequences_per_rank,
                (world.rank + 1) * split.sequences_per_rank,
                split.micro_batch,
            )
        ]
        reset_peak()
        losses = [engine.step(share, LR).loss for _ in range(1 if load else STEPS)]
        if not load:
            peaks["training"] = peak_bytes()
            reset_peak()
            checkpointer.save(STEPS)
            losses.append(engine.step(share, LR).loss)
            checkpointer.wait()
            peaks["saving"] = peak_bytes()
        checkpointer.close()
    seen = {"losses": losses, "checksums": sums, "peaks": peaks}
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


def launch(folder: Path, num_ranks: int, *, load: bool) -> list[dict[str, Any]]:
    """Run all ranks and return what each has seen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "MASTER_PORT": str(port)}
    world |= {"MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.true_size", "--folder", str(folder)]
    ranks = [
        subprocess.Popen(
            [*command, *(["--load"] if load else [])],
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(num_ranks)
    ]
    statuses = [rank.wait() for rank in ranks]
    if any(statuses):
        raise SystemExit("a rank failed")
    seen = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(num_ranks)]
    return seen


def planned_peaks(config: RunConfig, num_ranks: int, load_ranks: int) -> dict[str, int]:
    """Of each phase, on a rank on the processor."""
    precision = config.engine.resolve_precision(has_bf16=False)
    compiled = config.engine.kernels == "auto" and is_built(config.engine.kernels_folder)
    memory, loading = (
        device_memory(config, precision, split_batch(config.train, ranks), cpu=True, compiled=compiled)
        for ranks in (num_ranks, load_ranks)
    )
    return {
        "starting": memory.start_peak,
        "training": memory.total,
        "saving": memory.total + memory.save_copy,
        "loading": loading.load_peak,
    }


def largest_layer(config: RunConfig) -> int:
    """Elements of the largest layer."""
    layers: dict[str, int] = {}
    for name, shape in parameter_shapes(config).items():
        if ".layers." in name:
            stack, _, rest = name.partition(".layers.")
            layer = f"{stack}.{rest.partition('.')[0]}"
            layers[layer] = layers.get(layer, 0) + torch.Size(shape).numel()
    return max(layers.values())


def benchmark(given: argparse.Namespace) -> dict[str, Any]:
    """Measure one case."""
    resolved = resolve(given.preset, environment={}, assignments=settings_of(given))
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder, config = Path(scratch) / "run", resolved.config
        Run.create(folder, config, None)
        started = launch(folder, given.ranks, load=False)
        loaded = launch(folder, given.load_ranks or given.ranks, load=True)
    total: dict[str, int] = {}
    for rank in started:
        for name, value in rank["checksums"].items():
            total[name] = (total.get(name, 0) + value) % 2**64
    peaks = {
        phase: max(rank["peaks"][phase] for rank in ranks)
        for ranks in (started, loaded)
        for phase in ranks[0]["peaks"]
    }
    return {
        "preset": given.preset,
        "settings": settings_of(given),
        "ranks": given.ranks,
        "parameters": count_parameters(config),
        "layer_bytes": 4 * largest_layer(config),
        "measured": peaks,
        "planned": planned_peaks(config, given.ranks, given.load_ranks or given.ranks),
        "losses": started[0]["losses"],
        "loss_after_loading": loaded[0]["losses"][0],
        "checksums": total,
    }


def show(result: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """A line per phase, then what was compared."""
    print(f"{result['preset']}, {result['ranks']} ranks, {result['parameters']:,} parameters")
    for phase, peak in result["measured"].items():
        plan = result["planned"][phase]
        print(f"  {phase}: {peak / GIB:.2f} GiB, planned {plan / GIB:.2f}, {plan / peak - 1:+.1%}")
    measured = result["measured"]
    above = measured["starting"] - measured["training"]
    print(f"  start above training: {above / GIB:+.2f} GiB, a layer is {result['layer_bytes'] / GIB:.2f}")
    print(f"  losses {result['losses']}, after loading {result['loss_after_loading']}")
    if expected:
        apart = max(abs(a - b) for a, b in zip(result["losses"], expected["losses"], strict=True))
        same = result["checksums"] == expected["checksums"]
        print(f"  initial weights equal: {same}; losses apart by at most {apart:.1e}")


def main(arguments: Sequence[str]) -> None:
    """Parse and measure, as a launcher or as one of its ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--preset", default="CPM-X-L")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--load-ranks", type=int, help="ranks that load the checkpoint; by default as many")
    parser.add_argument("--stage", type=int, default=1)
    parser.add_argument("--offload", default="none")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--scratch", type=Path, help="where the checkpoint is written")
    parser.add_argument("--expect", type=Path, help="a result to compare weights and losses with")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    given = parser.parse_args(arguments)
    if given.folder:
        rank_main(given.folder, given.load)
        return
    result = benchmark(given)
    show(result, json.loads(given.expect.read_text()) if given.expect else None)
    if given.out:
        given.out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
