"""bf16 learns as fp32 does under every ZeRO stage, from the first step on."""

import pytest
import torch

from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model

SIZES = ("model.num_layers=2", "model.dropout=0", "train.global_batch=4", "train.micro_batch=2")
BF16 = 0.05  # nats; one step moves the loss by 0.3


def losses(stage: int, precision: str) -> list[float]:
    """Of some steps on one synthetic batch, at a constant learning rate."""
    values = [*SIZES, f"engine.zero_stage={stage}", f"engine.precision={precision}"]
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config
    with distributed_world(60) as world:
        torch.manual_seed(1)
        engine = TrainingEngine(build_model(config), config, world)
        torch.manual_seed(2)
        batches = [synthetic_batch(config, 2), synthetic_batch(config, 2)]
        return [engine.step(batches, 1e-3).loss for _ in range(6)]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_follows_fp32(stage: int) -> None:
    exact = losses(1, "fp32")
    assert exact[0] - exact[1] > 4 * BF16, "so that a first step that is too small could show"
    assert losses(stage, "bf16") == pytest.approx(exact, abs=BF16)
