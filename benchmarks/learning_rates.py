"""How far the transferred learning rate is from the best of a grid, at several depths and widths.

    python -m benchmarks.learning_rates --out learning_rates.json
    python -m benchmarks.learning_rates --out learning_rates.json --shapes 4x256 --rules completep --seeds 1,2

Each network is a GPT proxy on the packaged Chinese text, trained for `--steps` steps at five rates: the rate
that the rule gives it, and that rate times 1/4, 1/2, 2 and 4. The best rate is the lowest point of the
parabola in log rate through the best of the five and its neighbours. Two rules are compared: CompleteP
(`transfer.base_*`), and the proxies' own rule by depth (`train.lr_depth_scaled`). Cells that are already in
`--out` are kept, so a stopped measurement resumes where it was. The losses of several seeds are averaged
before the best rate is taken. One process, one thread.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from fpm_cli.cli.study_request import transfer_assignments
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.samples import build_sample_corpus
from fpm_cli.engine.batches import load_batch
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.schedule import learning_rate
from fpm_cli.engine.validation import validation_losses
from fpm_cli.engine.world import World, distributed_world
from fpm_cli.models.build import build_model
from fpm_cli.objectives.build import build_samples
from fpm_cli.progress import ignore_report
from fpm_cli.study.matching import with_depth_and_heads
from fpm_cli.study.tables import best_rate

PRESET = "CPM-X-S"
RULES = "completep,depth-mup"
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SHAPES = "4x64,16x64,64x64,4x256,16x256,64x256"
WARMUP_SHARE = 0.1
EVAL_SAMPLES = 128
NETWORK = ("rule", "width", "depth")
DIVERGED = 2.0  # times the loss of a uniform guess


@dataclass(frozen=True)
class Cell:
    """One training: a rule, a network, a multiple of the rate that the rule gives it, and a seed."""

    rule: str
    depth: int
    width: int
    factor: float
    steps: int
    seed: int

    def config(self) -> RunConfig:
        """What `fpm pretrain` would be given."""
        base = resolve(PRESET, proxy=True, environment={}).config
        chosen = transfer_assignments(self.rule, base)
        config = resolve(PRESET, proxy=True, environment={}, assignments=chosen).config
        config = with_depth_and_heads(config, self.depth, self.width // config.model.head_size)
        lr = config.train.lr * self.factor
        changes = {
            "lr": lr,
            "min_lr": lr / 10,
            "steps": self.steps,
            "seed": self.seed,
            "warmup_steps": max(1, round(WARMUP_SHARE * self.steps)),
            "eval_samples": EVAL_SAMPLES,
        }
        return config.model_copy(
            update={
                "train": config.train.model_copy(update=changes),
                "engine": config.engine.model_copy(update={"zero_stage": 0}),
            }
        )


def cells(shapes: str, rules: str, steps: int, seeds: str) -> Iterator[Cell]:
    """All cells; the cheap networks come first."""
    pairs = [tuple(map(int, shape.split("x"))) for shape in shapes.split(",")]
    networks = sorted(pairs, key=lambda pair: pair[0] * pair[1] ** 2)
    numbers = map(int, seeds.split(","))
    for seed, (depth, width), rule, factor in product(numbers, networks, rules.split(","), FACTORS):
        yield Cell(rule, depth, width, factor, steps, seed)


def validation_loss(cell: Cell, corpus: Corpus, world: World) -> float | None:
    """Train and score, in nats per token; None where the training diverged."""
    config = cell.config()
    engine = TrainingEngine(build_model(config), config, world)
    samples, size = build_samples(config, corpus, "train"), config.train.global_batch
    for step in range(config.train.steps):
        batch = load_batch(samples, range(step * size, (step + 1) * size), world.device)
        result = engine.step([batch], lr=learning_rate(config.train, step))
        if not result.loss < DIVERGED * math.log(config.model.vocab_size):
            return None
    validation = build_samples(config, corpus, "validation")
    return sum(validation_losses(engine, validation, config, ignore_report).values())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each rule and network, the mean loss at each factor, and the best factor."""
    head = [
        "rule",
        "layers",
        "width",
        "seeds",
        *(f"x {factor:g}" for factor in FACTORS),
        "best / transferred",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    networks: dict[tuple[Any, ...], dict[float, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        networks[tuple(row[name] for name in NETWORK)][row["factor"]].append(row["loss"])
    for (rule, width, depth), by_factor in sorted(networks.items()):
        means = [mean_loss(by_factor[factor]) for factor in FACTORS]
        num_seeds = min(len(by_factor[factor]) for factor in FACTORS)
        best = best_rate(FACTORS, means) if num_seeds else None
        texts = ["-" if loss is None else f"{loss:.3f}" for loss in means]
        best_text = "-" if best is None else f"{best:.2f}"
        lines.append(f"| {' | '.join([rule, str(depth), str(width), str(num_seeds), *texts, best_text])} |")
    return "\n".join(lines)


def mean_loss(losses: list[float | None]) -> float | None:
    """The mean over seeds; None where there is none, or where one diverged."""
    finite = [loss for loss in losses if loss is not None]
    return sum(finite) / len(finite) if losses and len(finite) == len(losses) else None


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("learning_rates.json"))
    parser.add_argument("--shapes", default=SHAPES, help="layers x width, such as 4x64,16x64")
    parser.add_argument("--rules", default=RULES, help="which of them, such as completep")
    parser.add_argument("--seeds", default="1", help="such as 1,2,3")
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    names = ("rule", "depth", "width", "factor", "steps", "seed")
    done = {Cell(*(row[name] for name in names)) for row in rows}
    with tempfile.TemporaryDirectory() as folder, distributed_world(timeout_seconds=60.0) as world:
        reference = resolve(PRESET, proxy=True, environment={}).config
        corpus = build_sample_corpus(reference, Path(folder) / "corpus")
        for cell in cells(arguments.shapes, arguments.rules, arguments.steps, arguments.seeds):
            if cell in done:
                continue
            began = time.monotonic()
            loss = validation_loss(cell, corpus, world)
            rows.append({**asdict(cell), "loss": loss, "seconds": round(time.monotonic() - began, 1)})
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
            print(rows[-1], flush=True)
    print(table([row for row in rows if row["steps"] == arguments.steps]))


if __name__ == "__main__":
    main()
