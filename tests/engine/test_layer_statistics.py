"""Per-layer statistics are those of plain torch, under every ZeRO stage and on several processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fpm_cli.cli.app import run as fpm
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.engine.batches import load_batch
from fpm_cli.models.build import build_model
from fpm_cli.objectives.build import build_samples
from fpm_cli.runs.run import Run
from tests.preloaded import Preloaded
from tests.small_runs import tiny

ON = ("train.layer_statistics=true", "train.log_every=2", "train.micro_batch=2", "train.clip_norm=1e-3")
STACKS = {"gpt": ["decoder"], "bert": ["encoder"], "encdec": ["encoder", "decoder"]}


def rows(run: Path) -> dict[int, Any]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in lines if row["kind"] == "layers"}


def by_plain_torch(run: Path, corpus: Path) -> dict[str, dict[str, float]]:
    """Of the first step: its whole batch at once, no DeepSpeed."""
    config = Run.open(run).config()
    model = build_model(config).train()
    samples = build_samples(config, Corpus.open(corpus), "train")
    batch = load_batch(samples, range(config.train.global_batch), torch.device("cpu"))
    rms: dict[str, float] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: rms.update(
            {name: float(output.detach().pow(2).mean().sqrt())}
        )

    layers = {
        f"{stack}.{number}": layer
        for stack in STACKS[config.family]
        for number, layer in enumerate(getattr(model, stack).layers)
    }
    for name, layer in layers.items():
        layer.register_forward_hook(keep(name))
    counts = model.num_predictions(batch)  # type: ignore[operator]
    sum(total / counts[name] for name, total in model(batch).items()).backward()
    norms = {
        name: float(torch.nn.utils.get_total_norm([p.grad for p in layer.parameters()]))
        for name, layer in layers.items()
    }
    return {"gradient_norm": norms, "activation_rms": rms}


@pytest.mark.parametrize(
    ("name", "stage", "num_layers"),
    [("CPM-X-S", 0, 2), ("CPM-X-S", 1, 3), ("BERT-C", 2, 2), ("CPM-2-X-S", 2, 4), ("CPM-X-S", 3, 2)],
)
def test_they_are_those_of_plain_torch(
    name: str, stage: int, num_layers: int, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run, corpus = tmp_path / "run", sample_corpora(name)
    sizes = (f"model.num_layers={num_layers}", f"engine.zero_stage={stage}", "train.steps=5")
    recompute = "engine.recompute=full" if stage == 1 else "engine.recompute=none"
    flags = tiny(name, *ON, *sizes, recompute)
    assert fpm(["-q", *flags, "--corpus", str(corpus), "--out", str(run)]) == 0
    found = rows(run)
    assert list(found) == [1, 2, 4, 5]  # the first, the last, and every second
    for kind, expected in by_plain_torch(run, corpus).items():
        assert len(expected) == num_layers
        assert found[1][kind] == pytest.approx(expected, rel=1e-4)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    layer = next(iter(found[1]["gradient_norm"]))
    assert [event.step for event in events.Scalars(f"gradient_norm/{layer}")] == [1, 2, 4, 5]


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.long), 2])
def test_several_processes_see_what_one_sees(
    stage: int, tmp_path: Path, sample_corpora: Callable[[str], Path], preloaded: Preloaded
) -> None:
    run, corpus = tmp_path / "run", sample_corpora("CPM-X-S")
    flags = tiny("CPM-X-S", *ON, f"engine.zero_stage={stage}", "model.num_layers=2", "train.steps=1")
    preloaded.fpm(["-q", *flags, "--corpus", str(corpus), "--out", str(run), "--nproc", "2"])
    for kind, expected in by_plain_torch(run, corpus).items():
        assert rows(run)[1][kind] == pytest.approx(expected, rel=1e-4)


def test_they_are_off_by_default(tmp_path: Path, sample_corpora: Callable[[str], Path]) -> None:
    run = tmp_path / "run"
    flags = tiny("CPM-X-S", "model.num_layers=2", "train.steps=1")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("CPM-X-S")), "--out", str(run)]) == 0
    assert not rows(run)
