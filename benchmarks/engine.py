"""What the DeepSpeed engine costs over a bare PyTorch loop that trains the same model on the same batches.

    python -m benchmarks.engine

The bare loop is forward, backward, clipping and an optimizer: torch's fused AdamW with `clip_grad_norm_`, or
the flat AdamW that the engine itself uses. All three start from the same weights, and their losses over the
first steps must agree. One thread; CPU seconds per step, in turns.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.measurements import Measurement, cpu_seconds, interleave, measurement, parse_arguments, report
from benchmarks.training import PROXIES, proxy, sample_run
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.batches import Batch, load_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.flat_optimizer import FlatAdamW
from fpm_cli.engine.optimizer import LR_SCALE, parameter_groups
from fpm_cli.engine.world import distributed_world
from fpm_cli.launch.placement import keep_freed_memory
from fpm_cli.models.build import build_model
from fpm_cli.objectives.build import build_samples

COMPARED_STEPS = 3
TOLERANCE = 1e-4  # of losses of several nats, after steps of AdamW in float32
WIDER = {"model.hidden_size": 256, "model.head_size": 64, "model.ffn_size": 1024, "model.num_layers": 12}
Step = Callable[[], float]  # takes one step and returns its loss


def main() -> None:
    """Time the proxies of three presets, and a wider BERT."""
    options = parse_arguments(__doc__, add_arguments)
    keep_freed_memory(large_blocks=True)
    rows: list[Measurement] = []
    with distributed_world(60.0) as world, tempfile.TemporaryDirectory() as folder:
        for number, (name, config) in enumerate(cases().items()):
            place = Path(folder) / str(number)
            place.mkdir()
            _, corpus = sample_run(place, config)
            samples = build_samples(config, corpus, "train")
            batch = load_batch(samples, range(config.train.global_batch), world.device)
            engine = TrainingEngine(build_model(config), config, world)
            sides: dict[str, Step] = {
                "fpm": lambda engine=engine, batch=batch, config=config: (  # type: ignore[misc]
                    engine.step([batch], config.train.lr).loss
                ),
                "a bare loop, torch's AdamW": bare_loop(config, batch, flat=False),
                "a bare loop, flat AdamW": bare_loop(config, batch, flat=True),
            }
            require_equal_losses(name, sides)
            timed = {side: partial(cpu_seconds, step) for side, step in sides.items()}
            seconds = interleave(timed, options.rounds)
            ours = seconds.pop("fpm")
            rows += [
                measurement(
                    "engine overhead per step", name, peer, ours, times,
                    asked=0.97 if "flat" in peer else None,
                )
                for peer, times in seconds.items()
            ]  # fmt: skip
    report(rows, options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--rounds", type=int, default=9)


def cases() -> dict[str, RunConfig]:
    """By name; dropout 0, so that every side computes the same."""
    proxies = {f"proxy of {name}": proxy(name, {"train.micro_batch": 64}) for name in PROXIES}
    wider = {**WIDER, "train.micro_batch": 8, "train.global_batch": 8}
    return {**proxies, "BERT 12 x 256, 8 x 32": proxy("BERT-E-E", wider)}


def bare_loop(config: RunConfig, batch: Batch, *, flat: bool) -> Step:
    """A step of a loop without DeepSpeed on the same initial weights."""
    model, train = build_model(config), config.train
    optimizer: torch.optim.Optimizer
    if flat:
        optimizer = FlatAdamW(model, config)
    else:
        betas = (train.beta1, train.beta2)
        optimizer = torch.optim.AdamW(parameter_groups(model, config), betas=betas, fused=True)
    for group in optimizer.param_groups:
        group["lr"] = train.lr * group[LR_SCALE]
    return partial(bare_step, model, optimizer, batch, config)


def bare_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, config: RunConfig) -> float:
    """Forward, backward, clipping and the update; the loss."""
    terms, counts = model(batch), model.num_predictions(batch)  # type: ignore[operator]
    loss = sum(term / counts[name] for name, term in terms.items())
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    if isinstance(optimizer, FlatAdamW):
        norm = optimizer.clip_gradients()  # which frees the parameters' gradients
        optimizer.begin_step(0.0, lambda: norm)
        optimizer.step()
        optimizer.end_step()
    else:
        nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def require_equal_losses(name: str, sides: dict[str, Step]) -> None:
    """Take some steps with every side; their losses must agree."""
    losses = {side: [step() for _ in range(COMPARED_STEPS)] for side, step in sides.items()}
    differences = [abs(a - b) for each in losses.values() for a, b in zip(each, losses["fpm"], strict=True)]
    print(f"{name}: losses differ by {max(differences):.1e} in {COMPARED_STEPS} steps", flush=True)
    if max(differences) > TOLERANCE:
        raise SystemExit(f"{name}: the sides train differently: {losses}")


if __name__ == "__main__":
    main()
