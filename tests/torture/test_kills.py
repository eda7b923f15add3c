"""Rows: SIGKILL while checkpoints are saved, and while the real `fpm pretrain` runs.

In memory, since what a killed process wrote is kept by the kernel on any file system; `test_crashes.py`
is for what a disk may lose.

`TORTURE_KILLS=10000 make torture` kills the saving process ten thousand times.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.scale import counts

MANY = int(os.environ.get("TORTURE_KILLS", "1000"))


def outcome(module: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", f"tests.torture.{module}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@counts(20, MANY)
def test_a_kill_during_a_save_loses_nothing_that_was_acknowledged(
    count: int, fast_folder: Path, report: Callable[[str], None]
) -> None:
    ours = outcome("saving", str(fast_folder), "durable", str(count))
    naive = outcome("saving", str(fast_folder / "naive"), "naive", str(count))
    report(
        f"SIGKILL during saves: {ours['kills']:,} kills, {ours['half_done']:,} of them amid a save, "
        f"{ours['saves']:,} saves done: {ours['unreadable']} unreadable, {ours['lost']} with an acknowledged "
        f"step lost (so below {3 / ours['half_done']:.2%} a kill, at 95 %); "
        f"written in place: {naive['kills']:,} kills, {naive['unreadable']} unreadable, {naive['lost']} lost"
    )
    assert ours["half_done"] >= count
    assert ours["unreadable"] == ours["lost"] == 0
    assert naive["unreadable"] > 0


@counts(1, 100)
def test_a_killed_run_ends_as_the_uninterrupted_one_bit_for_bit(
    count: int, fast_folder: Path, sample_corpora: Callable[[str], Path], report: Callable[[str], None]
) -> None:
    found = outcome("killed_runs", str(fast_folder), str(sample_corpora("BERT-C")), str(count))
    report(
        f"SIGKILL of fpm pretrain: {found['kills']} kills of {found['runs']} runs of {found['steps']} steps, "
        f"{found['resumed']} resumed from a save; {found['identical']} ended bit-identical to the "
        f"uninterrupted run, {found['metrics']} with its metrics"
    )
    assert found["kills"] >= count and found["resumed"] > 0
    assert found["identical"] == found["metrics"] == found["runs"]
