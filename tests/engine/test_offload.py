"""Offload of optimizer and parameters really reaches DeepSpeed and learns what a run without it learns."""

import pytest

from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.errors import UsageError
from fpm_cli.models.build import build_model

SMALL = ("model.num_layers=2", "train.global_batch=2", "train.micro_batch=2")


def losses(stage: int, offload: str) -> list[float]:
    values = [*SMALL, f"engine.zero_stage={stage}", f"engine.offload={offload}"]
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config
    with distributed_world(60) as world:
        engine = TrainingEngine(build_model(config), config, world)
        given = engine.deepspeed.config["zero_optimization"]
        assert given["stage"] == stage
        assert ("offload_optimizer" in given, "offload_param" in given) == (
            offload != "none",
            offload == "parameters",
        )
        return [engine.step([synthetic_batch(config, 2)], 1e-3).loss for _ in range(3)]


@pytest.mark.parametrize(("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "parameters")])
def test_offload_changes_where_the_state_is_and_not_what_is_learnt(stage: int, offload: str) -> None:
    assert losses(stage, offload) == pytest.approx(losses(stage, "none"), rel=1e-5)


def test_fp16_where_the_processor_has_none_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [*SMALL, "engine.precision=fp16"]
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=values).config
    with distributed_world(60) as world:
        from deepspeed.accelerator import get_accelerator

        monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: False)
        with pytest.raises(UsageError, match="fp32 or bf16"):
            TrainingEngine(build_model(config), config, world)
