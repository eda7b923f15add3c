"""The gradients of several bf16 passes are added in float32, where the configuration says so."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fpm_cli.cli.app import run as fpm
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.config.sections import EngineConfig
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model
from tests.small_runs import metrics, tiny

PASSES = 16  # a power of two: DeepSpeed divides the loss by it, which then rounds nothing


def config_of(stage: int, dtype: str, *assignments: str) -> RunConfig:
    values = [f"engine.zero_stage={stage}", f"engine.grad_accum_dtype={dtype}", "engine.precision=bf16"]
    values += [f"train.global_batch={PASSES}", "train.micro_batch=1", "train.sequence_length=32"]
    values += ["model.num_layers=2", "model.dropout=0", "engine.kernels=reference", *assignments]
    return resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config


def relative_error(config: RunConfig) -> float:
    """Of the engine's gradient before the update, compared with the sum in float64 of the same passes."""
    from deepspeed.utils import safe_get_full_grad

    with distributed_world(60) as world:
        torch.manual_seed(1)
        model = build_model(config)
        alone = copy.deepcopy(model).bfloat16()
        engine = TrainingEngine(model, config, world)
        torch.manual_seed(2)
        batches = [synthetic_batch(config, 1) for _ in range(PASSES)]
        engine._forward_backward(batches)
        gradients = [safe_get_full_grad(parameter).double() for parameter in engine.model.parameters()]
    predictions = sum(float(alone.num_predictions(batch)["lm"]) for batch in batches)  # type: ignore[operator]
    sums: list[Tensor] = [torch.zeros_like(p, dtype=torch.float64) for p in alone.parameters()]
    for batch in batches:
        alone.zero_grad()
        (alone(batch)["lm"] / predictions).backward()
        for total, parameter in zip(sums, alone.parameters(), strict=True):
            assert parameter.grad is not None
            total += parameter.grad.double()
    difference = torch.cat([(a.view(-1) - b.view(-1)) for a, b in zip(gradients, sums, strict=True)])
    return float(difference.norm() / torch.cat([total.view(-1) for total in sums]).norm())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_sums_in_float32_round_nothing_that_shows_and_sums_in_bf16_do(stage: int) -> None:
    assert relative_error(config_of(stage, "fp32")) < 1e-5
    assert relative_error(config_of(stage, "compute")) > 1e-3


def test_float32_is_chosen_where_it_costs_little() -> None:
    engines = {stage: EngineConfig(zero_stage=stage) for stage in (0, 1, 2, 3)}  # type: ignore[arg-type]
    assert [e.accumulates_in_fp32("bf16", 2) for e in engines.values()] == [False, False, True, True]
    assert not engines[2].accumulates_in_fp32("bf16", 1), "one pass needs no sum"
    assert not engines[2].accumulates_in_fp32("fp16", 2), "fp16 has 11 significant bits"
    with pytest.raises(ValueError, match=r"grad_accum_dtype 'fp32'.*zero_stage 1, 2 or 3"):
        EngineConfig(zero_stage=0, grad_accum_dtype="fp32")


@pytest.mark.parametrize("offload", ["none", "optimizer"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_update_takes_the_float32_sums_and_prints_nothing(
    stage: int, offload: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_of(stage, "fp32", f"engine.offload={offload}", "train.global_batch=4")
    with distributed_world(60) as world:
        torch.manual_seed(1)
        engine = TrainingEngine(build_model(config), config, world)
        torch.manual_seed(2)
        batches = [synthetic_batch(config, 1) for _ in range(4)]
        losses = [engine.step(batches, 1e-3).loss for _ in range(3)]
    assert losses[2] < losses[1] - 0.1 < losses[0] - 0.2
    assert capfd.readouterr().out == ""


@pytest.mark.long
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_that_sums_in_float32_resumes_bit_for_bit(
    stage: int, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    values = ("train.schedule=constant", "train.warmup_steps=0", "train.micro_batch=1", "model.num_layers=2")
    values += (f"engine.zero_stage={stage}", "engine.precision=bf16", "engine.grad_accum_dtype=fp32")
    through, parted = tmp_path / "through", tmp_path / "parted"
    for run, steps in ((through, 4), (parted, 2)):
        flags = [*tiny("EPM-X-S", f"train.steps={steps}", *values), "--out", str(run)]
        assert fpm(["-q", *flags, "--corpus", str(sample_corpora("EPM-X-S"))]) == 0
    longer = ["--allow-config-change", "--set", "train.steps=4"]
    assert fpm(["-q", "pretrain", "--resume", "--out", str(parted), *longer]) == 0
    assert metrics(through, "train") == metrics(parted, "train")
    for name in ("weights-0.safetensors", "optimizer-0.safetensors"):
        ours, theirs = (run / "checkpoints/step-4" / name for run in (through, parted))
        assert ours.read_bytes() == theirs.read_bytes()
