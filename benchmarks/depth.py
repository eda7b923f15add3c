"""Which depth learns with which norm placement and learning rates: the table of docs/depth.md.

    python -m benchmarks.depth --out depth.json

Every run is a proxy (`fpm pretrain --proxy`: width 64, width-faithful initialisation) on the packaged
sample text, with its own depth, setting and seed, and nothing else changed; its figure is the
validation loss below the unigram entropy of the same text, in nats. Rows already in `--out` are kept,
so a stopped run resumes where it was. One process, one thread; about an hour.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_NUM_THREADS", "1")

from fpm_cli.config.resolve import resolve
from fpm_cli.corpus.samples import build_sample_corpus
from fpm_cli.engine.local_launch import launch
from fpm_cli.errors import DivergedError
from fpm_cli.inference.language_model import score_language_model
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.launch.placement import Placement
from fpm_cli.runs.run import Run

# A preset of each family, the depths it is trained at, and its steps: the tokens of a step are the proxy's.
FAMILIES = {"CPM-X-L": ((36, 128), 300), "CPM-2-X-M": ((8, 24), 300), "BERT-E-E": ((24,), 300)}
SEEDS = 3
ONE_RATE = "train.lr_depth_scaled=false"
SETTINGS = {
    "pre-LN, lr by depth": (),
    "pre-LN, one lr of 1e-3": (ONE_RATE, "train.lr=1e-3", "train.min_lr=1e-4"),
    "post-LN, one lr of 1e-3": (
        ONE_RATE,
        "train.lr=1e-3",
        "train.min_lr=1e-4",
        "model.norm_placement=post",
    ),
    "DeepNorm, one lr of 3e-3": (
        ONE_RATE,
        "train.lr=3e-3",
        "train.min_lr=3e-4",
        "model.norm_placement=deepnorm",
    ),
}


# An encoder-decoder has no post-LN; the others were left out for the time that deep networks take.
LEFT_OUT = {
    "CPM-2-X-M": {"post-LN, one lr of 1e-3"},
    "BERT-E-E": {"post-LN, one lr of 1e-3", "DeepNorm, one lr of 3e-3"},
}


@dataclass(frozen=True)
class Trial:
    """One run to make."""

    preset: str
    num_layers: int
    setting: str
    seed: int

    def assignments(self, steps: int) -> list[str]:
        """What it changes in the proxy."""
        return [
            f"model.num_layers={self.num_layers}",
            f"train.steps={steps}",
            f"train.eval_every={steps}",
            f"train.save_every={steps}",
            f"train.seed={self.seed}",
            *SETTINGS[self.setting],
        ]


def trials(presets: Sequence[str], seeds: int) -> Iterator[Trial]:
    """All of them; a first seed of everything comes before a second of anything."""
    for seed in range(1, seeds + 1):
        for preset in presets:
            for depth in FAMILIES[preset][0]:
                for setting in SETTINGS:
                    if setting not in LEFT_OUT.get(preset, ()):
                        yield Trial(preset, depth, setting, seed)


def nats_below_unigram(trial: Trial, corpus: Path, folder: Path) -> float | None:
    """Train and score; None where it diverged."""
    steps = FAMILIES[trial.preset][1]
    config = resolve(trial.preset, proxy=True, environment={}, assignments=trial.assignments(steps)).config
    run = Run.create(folder, config, corpus)
    try:
        launch(run, Placement(), quiet=True)
    except DivergedError:
        return None
    score = score_language_model(load_trained_model(run))
    return score.unigram_entropy - score.loss


def table(rows: list[dict[str, object]]) -> str:
    """Markdown: a line for each depth, a column for each setting, mean (lowest to highest) over seeds."""
    lines = ["| network | steps | " + " | ".join(SETTINGS) + " |", "|---" * (len(SETTINGS) + 2) + "|"]
    for preset, (depths, steps) in FAMILIES.items():
        for depth in depths:
            cells = []
            for setting in SETTINGS:
                found = [
                    row["nats"]
                    for row in rows
                    if (row["preset"], row["num_layers"], row["setting"]) == (preset, depth, setting)
                ]
                learnt = [float(nats) for nats in found if isinstance(nats, float)]
                cells.append(_cell(learnt, len(found)))
            lines.append(f"| {preset}, {depth} layers | {steps} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(learnt: list[float], tried: int) -> str:
    if not tried:
        return "not tried"
    said = [f"{mean(learnt):.2f} ({min(learnt):.2f} to {max(learnt):.2f})"] if learnt else []
    if len(learnt) < tried:
        said.append(f"{tried - len(learnt)} diverged")
    if tried != SEEDS:
        said.append(f"seeds: {tried}")
    return ", ".join(said)


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("depth.json"))
    parser.add_argument("--presets", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    done = {Trial(*(row[key] for key in ("preset", "num_layers", "setting", "seed"))) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for preset in arguments.presets:
            build_sample_corpus(resolve(preset, proxy=True, environment={}).config, Path(folder) / preset)
        missing = [trial for trial in trials(arguments.presets, arguments.seeds) if trial not in done]
        for number, trial in enumerate(missing):
            nats = nats_below_unigram(trial, Path(folder) / trial.preset, Path(folder) / f"run-{number}")
            rows.append({**asdict(trial), "nats": nats})
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
            print(trial, nats, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
