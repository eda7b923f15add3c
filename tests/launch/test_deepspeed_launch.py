"""Ranks that another launcher starts and fpm only watches, with stand-ins for both."""

import json
import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from fpm_cli.errors import FpmError, MissingError, StoppedError, UsageError
from fpm_cli.launch.deepspeed_launch import supervise
from fpm_cli.launch.hosts import first_host_address, read_hostfile
from fpm_cli.runs.run import Run
from tests.launch.stand_in_ranks import PRELUDE

TIMEOUT = 5.0  # Python starts twice within it, on a busy machine too
# Starts two ranks and ends with the worse status; ends them when it is told to, as DeepSpeed's does.
STARTER = """
import os, signal, subprocess, sys
behaviour, logs = sys.argv[1:]
ranks = []
for rank in range(2):
    environment = {**os.environ, "RANK": str(rank)}
    command = [sys.executable, "-c", behaviour, logs, str(os.getpid())]
    ranks.append(subprocess.Popen(command, env=environment))
def end(*_):
    for rank in ranks:
        rank.kill()
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
sys.exit(max(abs(rank.wait()) for rank in ranks))
"""
ENDS = "\nheartbeat.exit_status = int(ended)\nheartbeat.__exit__()\nsys.exit(ended)"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "logs").mkdir()
    return Run(tmp_path)


def launch(run: Run, behaviour: str) -> None:
    script = PRELUDE + textwrap.dedent(behaviour)
    supervise(run, [sys.executable, "-c", STARTER, script, str(run.path / "logs")], 2, TIMEOUT)


def test_ranks_that_end_well_end_the_launch(run: Run) -> None:
    launch(run, "ended = 0" + ENDS)


def test_a_stopped_rank_is_named_and_none_is_left(run: Run) -> None:
    began = time.monotonic()
    with pytest.raises(FpmError, match=r"rank 1 on .* in step 7 sent no heartbeat for 5 s"):
        launch(run, "if rank == 1:\n    os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)")
    assert time.monotonic() - began < TIMEOUT + 30
    pids = [json.loads((run.path / "logs" / f"rank-{rank}.beat").read_text())["pid"] for rank in range(2)]
    ranks = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]  # killed; they may yet be ending
    assert not [rank for rank in psutil.wait_procs(ranks, timeout=10)[1] if rank.status() != "zombie"]


def test_a_rank_that_died_without_a_word_is_named(run: Run) -> None:
    with pytest.raises(FpmError, match=r"rank 1 on .* in step 7 died"):
        launch(run, "if rank == 1:\n    os.kill(os.getpid(), 9)\nended = 0" + ENDS)


def test_what_a_rank_raised_is_what_the_launch_raises(run: Run) -> None:
    with pytest.raises(MissingError, match=r"rank 0 .* ended with status 3"):
        launch(run, "ended = 3 if rank == 0 else 1" + ENDS)


def test_a_signal_reaches_the_ranks_through_the_run_folder(run: Run) -> None:
    def send() -> None:
        while len(list((run.path / "logs").glob("*.beat"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(StoppedError):
        launch(run, "while not shutdown.requested:\n    time.sleep(0.02)\nended = 75" + ENDS)
    assert not (run.path / "logs" / "stop").exists()


def test_a_hostfile_is_read_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# ours\nb slots=8\n\na   slots=4  # the old one\n")
    assert list(read_hostfile(path).items()) == [("b", 8), ("a", 4)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a slots=1\nb 8\n", "line 2: 'b 8' is not"),
        ("a slots=0\n", "line 1"),
        ("a slots=1\na slots=2\n", "line 2: a is named twice"),
        ("# nobody\n", "names no host"),
        ("a slots=1; rm -rf /\n", "line 1"),
    ],
)
def test_a_wrong_hostfile_is_refused_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_hostfile(path)


def test_a_leading_host_that_others_cannot_reach_is_refused() -> None:
    assert first_host_address({"localhost": 2}) == "127.0.0.1"
    with pytest.raises(UsageError, match="--master-addr"):
        first_host_address({"localhost": 1, "10.1.2.3": 1})
    with pytest.raises(UsageError, match=r"no\.such\.host\.invalid"):
        first_host_address({"no.such.host.invalid": 1})


def test_a_byte_order_mark_is_no_part_of_a_hosts_name(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"\xef\xbb\xbfa slots=2\r\nb slots=1\r\n")
    assert read_hostfile(path) == {"a": 2, "b": 1}
