"""The user's DeepSpeed options: a table, a file or `--set`; known, without contradiction, merged last."""

import json
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.config import deepspeed
from fpm_cli.config.batch_split import split_batch
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.engine.deepspeed_engine import TrainingEngine
from fpm_cli.engine.world import distributed_world
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.models.build import build_model


def config_of(*assignments: str, config_file: Path | None = None) -> RunConfig:
    return resolve(
        "CPM-X-S", proxy=True, environment={}, assignments=assignments, config_file=config_file
    ).config


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    return deepspeed.deepspeed_config(config.train, config.engine, split_batch(config.train, 1), "fp32")


def test_a_table_a_json_file_and_set_all_arrive_in_deepspeed(tmp_path: Path) -> None:
    table, options = tmp_path / "own.toml", tmp_path / "ds.json"
    table.write_text("[deepspeed.zero_optimization]\nreduce_bucket_size = 1000\n")
    options.write_text(json.dumps({"wall_clock_breakdown": True, "zero_optimization": {"stage": "auto"}}))
    named = tmp_path / "named.toml"
    named.write_text(f'[engine]\ndeepspeed = "{options}"\n')
    ours = deepspeed_config(config_of(config_file=table))
    assert ours["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1000}
    for config in (config_of(config_file=named), config_of(f"engine.deepspeed={options}")):
        made = deepspeed_config(config)
        assert made["wall_clock_breakdown"] is True and made["zero_optimization"] == {
            "stage": 1,
            "reduce_bucket_size": 200_000_000,
        }
    assert deepspeed_config(config_of("engine.deepspeed.steps_per_print=7"))["steps_per_print"] == 7


@pytest.mark.parametrize(
    ("option", "decided_by"),
    [
        ("train_batch_size=7", "train.global_batch"),
        ("train_micro_batch_size_per_gpu=3", "train.micro_batch"),
        ("gradient_accumulation_steps=2", "train.micro_batch"),
        ("gradient_clipping=0.5", "train.clip_norm"),
        ("zero_optimization.stage=3", "engine.zero_stage"),
        ("zero_optimization.offload_optimizer.device=cpu", "engine.offload"),
        ("bf16.enabled=true", "engine.precision"),
        ("fp16.enabled=true", "engine.precision"),
        ("optimizer.type=Adam", "train.lr"),
        ("scheduler.type=WarmupLR", "train.schedule"),
        ("activation_checkpointing.partition_activations=true", "engine.recompute"),
    ],
)
def test_what_contradicts_fpm_is_refused_with_both_keys(option: str, decided_by: str) -> None:
    with pytest.raises(UsageError) as refused:
        config_of(f"engine.deepspeed.{option}")
    assert option.split("=")[0].split(".")[0] in str(refused.value) and decided_by in str(refused.value)


def test_the_same_value_is_no_contradiction() -> None:
    same = ("gradient_clipping=1.0", "zero_optimization.stage=1", "train_batch_size=4", "fp16.enabled=false")
    assert config_of(*(f"engine.deepspeed.{option}" for option in same))


def test_an_unknown_key_gets_the_right_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'zero_optimization'"):
        config_of("engine.deepspeed.zero_optimisation.stage=1")


def test_what_deepspeed_itself_rejects_is_named_and_no_traceback() -> None:
    config = config_of("engine.deepspeed.zero_optimization.reduce_bucket_sise=1", "model.num_layers=1")
    with distributed_world(60) as world, pytest.raises(UsageError, match="reduce_bucket_sise"):
        TrainingEngine(build_model(config), config, world)


@pytest.mark.parametrize("text", ["{", "[1]", "\N{REPLACEMENT CHARACTER}", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ds.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"ds\.json"):
        config_of(f"engine.deepspeed={path}")


def test_a_missing_file_is_missing_and_two_tables_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        config_of(f"engine.deepspeed={tmp_path / 'none.json'}")
    both = tmp_path / "both.toml"
    both.write_text("[deepspeed]\n[engine.deepspeed]\n")
    with pytest.raises(UsageError, match="same table"):
        config_of(config_file=both)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("engine.zero_stage=0", "engine.offload=optimizer"), "zero_stage 1, 2 or 3"),
        (("engine.zero_stage=2", "engine.offload=parameters"), "zero_stage 3"),
        (("engine.zero_stage=0", "engine.precision=fp16"), r"engine\.zero_stage=1"),
    ],
)
def test_what_deepspeed_lacks_under_a_stage_is_refused(values: tuple[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_of(*values)
