"""The process group of a launch, and the groups that DeepSpeed makes of it."""

import os
from datetime import timedelta

import pytest
import torch
from torch.distributed import ProcessGroup

from fpm_cli.engine import world
from fpm_cli.engine.world import distributed_world
from tests.fake_gpus import FakeGpus


def timeout_of(group: ProcessGroup) -> timedelta:
    timeout: timedelta = group._get_backend(torch.device("cpu")).options._timeout
    return timeout


def test_deepspeeds_groups_wait_as_long_as_the_configuration_says() -> None:
    with distributed_world(123.0):
        import deepspeed
        from deepspeed.utils import groups

        assert timeout_of(groups._clone_world_group()) == timedelta(seconds=123)
        assert timeout_of(deepspeed.comm.new_group([0])) == timedelta(seconds=123)


def test_deepspeed_uses_the_only_gpu_that_a_rank_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpus(1).install(monkeypatch)
    for name, value in {"RANK": "5", "LOCAL_RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    seen: dict[str, str] = {}
    # DeepSpeed: `comm/torch.py` (device_id) and `runtime/engine.py` (set_device).
    monkeypatch.setattr(world, "_init_deepspeed", lambda backend, timeout: seen.update(os.environ))
    with distributed_world(20.0, launched=True) as rank_5:
        assert (rank_5.rank, rank_5.device) == (5, torch.device("cuda", 0))
    assert (seen["LOCAL_RANK"], seen["RANK"]) == ("0", "5")
