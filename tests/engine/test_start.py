"""The start of training: the same initial weights, bit for bit, whatever ranks, sharding and type."""

import json
from pathlib import Path

import pytest
import torch

from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.cli.app import run
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.start import allocate_network
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model, build_network, build_skeleton
from fpm_cli.models.initialise import InitialValues
from fpm_cli.runs.run import Run
from tests.preloaded import Preloaded
from tests.small_runs import tiny

# A step that changes no weight but zeros, and those by 1e-30 at most: the checkpoint holds the initial ones.
STILL = ("model.num_layers=2", "train.steps=1", "train.lr=1e-30", "train.min_lr=0", "train.weight_decay=0")


def saved_weights(
    preloaded: Preloaded, folder: Path, name: str, ranks: int, *assignments: str
) -> dict[str, torch.Tensor]:
    flags = [*tiny(name, *STILL, *assignments), "--nproc", str(ranks), "--out", str(folder)]
    preloaded.fpm(["--quiet", *flags])
    weights, _ = load_weights(Run.open(folder))
    return {name: weight.masked_fill(weight.abs() <= 1e-30, 0.0) for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("name", "ranks", "stage", "precision"),
    [
        ("CPM-X-S", 1, 0, "fp32"),
        ("CPM-X-S", 1, 2, "bf16"),
        ("CPM-X-S", 1, 3, "fp32"),
        ("CPM-X-S", 2, 1, "bf16"),
        ("CPM-X-S", 2, 3, "fp32"),
        ("BERT-C", 2, 3, "fp32"),
        ("CPM-2-X-S", 2, 2, "fp32"),
    ],
)
def test_initial_weights_are_a_function_of_the_configuration_alone(
    name: str, ranks: int, stage: int, precision: str, tmp_path: Path, preloaded: Preloaded
) -> None:
    settings = (f"engine.zero_stage={stage}", f"engine.precision={precision}")
    weights = saved_weights(preloaded, tmp_path / "run", name, ranks, *settings)
    expected = dict(build_model(Run.open(tmp_path / "run").config()).named_parameters())
    assert weights.keys() == expected.keys()
    for parameter_name, weight in weights.items():
        assert torch.equal(weight, expected[parameter_name]), parameter_name


def test_offloaded_optimizer_starts_from_the_same_weights(tmp_path: Path, preloaded: Preloaded) -> None:
    settings = ("engine.zero_stage=3", "engine.offload=parameters")
    weights = saved_weights(preloaded, tmp_path / "run", "CPM-X-S", 1, *settings)
    expected = dict(build_model(Run.open(tmp_path / "run").config()).named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())


def test_zero_3_decays_matrices_and_not_vectors(tmp_path: Path) -> None:
    def last_loss(stage: int) -> float:
        folder = tmp_path / str(stage)
        flags = tiny(
            "CPM-X-S", "model.num_layers=2", "train.steps=4", "train.weight_decay=0.9", "train.lr=0.1"
        )
        assert run(["--quiet", *flags, "--set", f"engine.zero_stage={stage}", "--out", str(folder)]) == 0
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return float([row for row in rows if row["kind"] == "train"][-1]["loss"])

    assert last_loss(3) == pytest.approx(last_loss(1), abs=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_are_allocated_once_as_one_flat_tensor_per_group(stage: int) -> None:
    values = ("model.num_layers=2", f"engine.zero_stage={stage}", "train.global_batch=1")
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config
    with distributed_world(60) as world:
        network = allocate_network(lambda: build_network(config), config, world)
        assert sum(p.untyped_storage().nbytes() for p in network.parameters()) < 1000
        engine = TrainingEngine(network, config, world)
        flat = engine.deepspeed.optimizer.bit16_groups_flat
        addresses = {tensor.untyped_storage().data_ptr() for tensor in flat}
        assert {p.untyped_storage().data_ptr() for p in network.parameters()} == addresses
        gradients = [torch.ones(()).expand(3), torch.ones(2)]
        assert engine.deepspeed.optimizer.flatten(gradients).equal(torch.ones(5))


def test_the_largest_preset_is_described_without_memory_and_any_part_of_it_is_drawn() -> None:
    whole = resolve("CPM-X-L", environment={}).config
    first_layers = resolve("CPM-X-L", environment={}, assignments=["model.num_layers=2"]).config
    skeleton = build_skeleton(whole)
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    values = InitialValues(skeleton, whole)
    assert sum(each.num_elements for each in values.distributions.values()) == 10_150_016_000
    part = values.draw("decoder.layers.127.mlp.branch.up.weight", 26_000_000, 1000)
    assert float(part.std()) == pytest.approx(0.02, rel=0.1)
    name = "decoder.layers.1.mlp.branch.up.weight"
    alone = InitialValues(build_skeleton(first_layers), first_layers)
    assert values.draw(name, 5_000_000, 9).equal(alone.draw(name, 5_000_000, 9))
