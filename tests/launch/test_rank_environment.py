"""A launch sets the whole environment of its ranks, whatever it inherited from a pod or another launcher."""

import os
import socket
from pathlib import Path

import psutil
import pytest

from fpm_cli.engine import world
from fpm_cli.engine.world import distributed_world
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.launch import placement
from fpm_cli.launch.placement import Placement, set_rank_environment, single_process_environment
from tests.fake_gpus import FakeGpus

# As torchrun, or an operator of Kubernetes that stands in for it, sets them in a container.
POD = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "10.255.255.1",
    "MASTER_PORT": "23456",
    "GROUP_RANK": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RUN_ID": "job",
    "PET_NNODES": "2",
}


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in POD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("pod")
def test_one_process_is_alone_whatever_it_inherited_and_leaves_it_as_it_was() -> None:
    with distributed_world(20) as alone:
        assert (alone.rank, alone.size) == (0, 1)
        assert "TORCHELASTIC_USE_AGENT_STORE" not in os.environ
    assert {name: os.environ.get(name) for name in POD} == POD
    assert "LOCAL_RANK" not in os.environ


@pytest.mark.usefixtures("pod")
def test_a_rank_gets_the_variables_of_its_own_launch_and_none_of_another() -> None:
    environment = Placement(nproc=2).environment(1, 4321)
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["LOCAL_RANK"]) == ("1", "2", "1")
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("127.0.0.1", "4321")
    assert not {"GROUP_RANK", "TORCHELASTIC_USE_AGENT_STORE", "PET_NNODES"} & environment.keys()
    assert environment["PATH"] == os.environ["PATH"]


def test_an_interface_that_does_not_exist_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UsageError, match=f"GLOO_SOCKET_IFNAME nosuch0: no network.* {socket.gethostname()}"):
        set_rank_environment(None)
    with pytest.raises(UsageError, match="nosuch0"), single_process_environment():
        pass
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", next(iter(psutil.net_if_addrs())))
    with single_process_environment():
        assert os.environ["WORLD_SIZE"] == "1"


@pytest.mark.parametrize("given", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_grows_segments_and_rounds_no_pinned_memory_unless_the_user_has_chosen(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(given, "max_split_size_mb:64")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", next(iter(psutil.net_if_addrs())))
    set_rank_environment(None)
    chosen = {name: value for name, value in os.environ.items() if name.endswith("ALLOC_CONF")}
    default = {"PYTORCH_ALLOC_CONF": "expandable_segments:True,pinned_max_round_threshold_mb:1"}
    expected = {given: "max_split_size_mb:64"} if given else default
    assert chosen == expected


@pytest.mark.parametrize(("num_gpus", "local_rank", "index"), [(8, 5, 5), (1, 5, 0), (1, 0, 0)])
def test_a_rank_uses_its_gpu_or_the_only_one_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, local_rank: int, index: int
) -> None:
    gpus = FakeGpus(num_gpus).install(monkeypatch)
    assert world._rank_device(local_rank).index == index
    assert gpus.chosen == [index]


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpus(2).install(monkeypatch)
    with pytest.raises(UsageError, match="rank 2 of this machine has no GPU, there are 2"):
        world._rank_device(2)


def test_a_gpu_that_torch_cannot_use_is_not_passed_over_in_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nvidia0").touch()
    gpus = FakeGpus(0, cuda_version="13.0").install(monkeypatch)
    monkeypatch.setattr(world, "NVIDIA_DEVICE", tmp_path / "nvidia0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(MissingError, match="driver"):
        world._rank_device(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert world._rank_device(0).type == "cpu"
    gpus.cuda_version = None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert world._rank_device(0).type == "cpu"


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ("2.10.1", "expandable_segments:True"),
        ("2.13.0", "expandable_segments:True,pinned_max_round_threshold_mb:1"),
        ("3.0", "expandable_segments:True,pinned_max_round_threshold_mb:1"),
    ],
)
def test_only_options_that_this_torch_knows_are_set(
    installed: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(placement, "version", lambda package: installed)
    placement.configure_allocator()
    assert os.environ["PYTORCH_ALLOC_CONF"] == expected
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
