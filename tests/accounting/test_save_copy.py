"""The copy that checkpoints are written from, predicted beside what a real engine would copy."""

import pytest

from fpm_cli.accounting.memory import device_memory
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.resolve import resolve
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.flat_partitions import build_shard, find_partitions
from fpm_cli.engine.synthetic import synthetic_batch
from fpm_cli.engine.world import distributed_world
from fpm_cli.models.build import build_model

SIZES = ("model.num_layers=2", "train.global_batch=2", "train.micro_batch=2")


def config_of(*values):
    return resolve("CPM-X-S", proxy=True, environment={}, assignments=[*SIZES, *values]).config


def predicted(config, devices=1):
    return device_memory(config, "fp32", split_batch(config.train, devices), cpu=True).save_copy


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_the_copy_is_the_state_that_a_rank_saves(stage):
    config = config_of(f"engine.zero_stage={stage}")
    with distributed_world(60) as world:
        engine = TrainingEngine(build_model(config), config, world)
        engine.step([synthetic_batch(config, 2)], 1e-3)
        optimizer = engine.deepspeed.optimizer
        shard = build_shard(find_partitions(engine.model, optimizer, 0), optimizer, 0, 1)
        tensors = [*shard.weights.values(), *shard.optimizer_states.values()]
        real = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert predicted(config) == pytest.approx(real, rel=1e-4)  # the steps' counts are in the prediction


@pytest.mark.parametrize("stage", [0, 1])
def test_two_ranks_copy_half_each(stage):
    config = config_of(f"engine.zero_stage={stage}")
    assert predicted(config, 2) == pytest.approx(predicted(config) / 2, rel=1e-3)


@pytest.mark.parametrize("value", ["engine.async_save=false", "train.save_every=1000"])
def test_without_a_save_behind_a_step_there_is_none(value):
    assert predicted(config_of("train.steps=1000", value)) == 0
