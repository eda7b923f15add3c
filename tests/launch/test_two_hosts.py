"""Two hosts learn what two local ranks learn: started by hand, by DeepSpeed's launcher, as a SLURM job."""

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.launch.two_hosts import TwoHosts, two_hosts
from tests.small_runs import FPM, finish, metrics, start, tiny, wait_for_step

pytestmark = pytest.mark.long
STEPS = 20
SETTINGS = (f"train.steps={STEPS}", "train.micro_batch=1", "engine.timeout_seconds=60")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    folder = tmp_path / "programs"
    folder.mkdir()
    with two_hosts(folder) as made:
        yield made


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> Path:
    run = tmp_path_factory.mktemp("one-host") / "run"
    status, said = finish(start([*flags(sample_corpora), "--nproc", "2", "--out", str(run)]))
    assert status == 0, said
    return run


def flags(sample_corpora: Callable[[str], Path], *settings: str) -> list[str]:
    return [*tiny("CPM-X-S", *SETTINGS, *settings), "--corpus", str(sample_corpora("CPM-X-S"))]


def assert_same_losses(ours: Path, theirs: Path) -> None:
    assert metrics(ours, "train") == metrics(theirs, "train")
    assert sorted(metrics(ours, "train")) == list(range(1, STEPS + 1))


def nodes(hosts: TwoHosts, arguments: list[str], run: Path) -> list:
    """fpm as typed on each of the two hosts."""
    common = [
        *arguments,
        "--out",
        str(run),
        "--nproc",
        "1",
        "--nnodes",
        "2",
        "--master-addr",
        hosts.addresses[0],
    ]
    return [start([*common, "--node-rank", str(host)], command=hosts.on(host, list(FPM))) for host in (1, 0)]


def test_fpm_started_on_each_host_learns_what_two_local_ranks_learn(
    hosts: TwoHosts, one_host: Path, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run = tmp_path / "run"
    for process in nodes(hosts, flags(sample_corpora), run):
        status, said = finish(process)
        assert status == 0, said
    assert_same_losses(run, one_host)


def test_a_node_that_does_not_come_is_missed_within_the_timeout(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    where = ["--nproc", "1", "--nnodes", "2", "--master-addr", "localhost", "--out", str(tmp_path / "run")]
    status, said = finish(start([*flags(sample_corpora, "engine.timeout_seconds=10"), *where]))
    assert status == 3
    assert "the 2 ranks did not all meet at localhost:29500 within 10 s" in said


def test_deepspeeds_launcher_learns_what_two_local_ranks_learn_and_stops_on_a_signal(
    hosts: TwoHosts, one_host: Path, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run, hostfile = tmp_path / "run", tmp_path / "hosts"
    hostfile.write_text("# two of them\n" + "".join(f"{name} slots=1\n" for name in hosts.names))
    where = ["--launcher", "deepspeed", "--hostfile", str(hostfile), "--master-addr", hosts.addresses[0]]
    path = f"{hosts.programs}:{os.environ['PATH']}"
    arguments = [*flags(sample_corpora), *where, "--out", str(run)]
    # On the first host, as its user would.
    status, said = finish(start(arguments, command=hosts.on(0, list(FPM)), PATH=path))
    assert status == 0, said
    assert_same_losses(run, one_host)
    assert (run / "logs" / "rank-1.log").is_file()

    long = tmp_path / "long"
    arguments = [*flags(sample_corpora, "train.steps=100000"), *where, "--out", str(long)]
    process = start(arguments, command=hosts.on(0, list(FPM)), PATH=path)
    wait_for_step(long, 3)
    process.send_signal(signal.SIGTERM)
    status, said = finish(process)
    assert status == 75, said
    step = int((long / "latest").read_text().removeprefix("step-"))
    assert sorted(metrics(long, "train")) == list(range(1, step + 1))


def test_a_rank_killed_on_one_host_ends_both(
    hosts: TwoHosts, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run = tmp_path / "run"
    second, first = nodes(hosts, flags(sample_corpora, "train.steps=100000"), run)
    wait_for_step(run, 2)
    # `ip netns exec` becomes the command, so the launcher's only child is its rank.
    (rank,) = psutil.Process(second.pid).children()
    rank.kill()
    for process, words in ((second, "rank 1 was killed by SIGKILL"), (first, "rank 0 ended")):
        status, said = finish(process)
        assert status == 1 and words in said, said


def test_a_batch_script_learns_what_two_local_ranks_learn(
    one_host: Path, hosts: TwoHosts, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    run, programs = tmp_path / "run", tmp_path / "slurm"
    programs.mkdir()
    stand_ins = {
        "scontrol": f"#!/bin/sh\necho {hosts.addresses[0]}\n",
        # A task on each node, with its number; the worst status of all.
        "srun": "#!/bin/bash\nshift 2\n"
        f'SLURM_NODEID=1 ip netns exec {hosts.names[1]} "$@" & other=$!\n'
        f'SLURM_NODEID=0 ip netns exec {hosts.names[0]} "$@"; first=$?\n'
        "wait $other; second=$?\nexit $((first > second ? first : second))\n",
        "sbatch": "#!/bin/bash\nSLURM_JOB_ID=7 SLURM_JOB_NODELIST='n[1-2]' bash >&2\n",
    }
    for name, text in stand_ins.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    arguments = [
        *flags(sample_corpora),
        "--launcher",
        "slurm",
        "--nproc",
        "1",
        "--nnodes",
        "2",
        "--out",
        str(run),
    ]
    status, said = finish(start(arguments, PATH=f"{programs}:{os.environ['PATH']}"))
    assert status == 0, said
    assert_same_losses(run, one_host)
