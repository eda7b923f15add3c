"""When a save is copied to host memory, and how long the main process waits for other ranks' shards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fpm_cli.checkpoints.shards import ParameterSlice, Shard, write_shard
from fpm_cli.config.sections import EngineConfig
from fpm_cli.engine import checkpointer
from fpm_cli.engine.checkpointer import Checkpointer
from fpm_cli.engine.world import World
from fpm_cli.errors import FpmError

SHARD = Shard({"w": torch.zeros(1000)}, {"exp_avg/w": torch.zeros(1000)}, (ParameterSlice.whole("w", 1000),))
SHARD_BYTES = 8000


class Memory:
    """What psutil says of the machine."""

    def __init__(self, available: int):
        self.available = available


def unopened(*, local_size: int = 1, size: int = 1, timeout_seconds: float = 600.0) -> Checkpointer:
    """A checkpointer of which only what these tests call is there."""
    made: Any = object.__new__(Checkpointer)
    made.world = World(0, size, torch.device("cpu"), local_size)
    made.config = type("Config", (), {"engine": EngineConfig(timeout_seconds=timeout_seconds)})
    made._host_copies = {}
    return made  # type: ignore[no-any-return]


@pytest.mark.parametrize(("local_size", "in_background"), [(1, True), (8, True), (9, False)])
def test_the_hosts_free_memory_is_shared_by_its_ranks(
    local_size: int, in_background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for_eight = Memory(int(8 * 1.5 * SHARD_BYTES) + 8)
    monkeypatch.setattr(checkpointer.psutil, "virtual_memory", lambda: room_for_eight)
    assert unopened(local_size=local_size)._can_write_in_background(SHARD) is in_background


class Clock:
    """Time that passes in `sleep` alone; `meanwhile` is called with the time after each."""

    def __init__(self, meanwhile: Callable[[float], None] = lambda now: None):
        self.now, self.meanwhile = 0.0, meanwhile

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 10.0)
        self.meanwhile(self.now)


def test_a_shard_that_grows_is_waited_for_longer_than_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path, 0, SHARD)
    growing = tmp_path / "weights-1.safetensors"

    def write(now: float) -> None:
        if now < 5000:
            growing.write_bytes(b"x" * int(now))
        else:
            growing.unlink()
            write_shard(tmp_path, 1, SHARD)

    clock = Clock(write)
    monkeypatch.setattr(checkpointer, "time", clock)
    unopened(size=2, timeout_seconds=600)._wait_for_shards(tmp_path)
    assert clock.now == 5000


def test_a_shard_that_does_not_grow_is_given_up_after_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(checkpointer, "time", clock)
    write_shard(tmp_path, 0, SHARD)
    (tmp_path / "weights-1.safetensors").write_bytes(b"half")
    with pytest.raises(FpmError, match="rank 1 has not written its shard, and nothing was written for"):
        unopened(size=2, timeout_seconds=600)._wait_for_shards(tmp_path)
    assert 600 < clock.now < 650
