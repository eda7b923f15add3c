"""Rows: a depth study that is killed at random moments, and one whose disk is full."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_runs import FPM
from tests.torture.killed_studies import BEGIN

KILLS = 20


@pytest.mark.torture
def test_a_killed_study_has_the_results_of_one_that_was_not(
    fast_folder: Path, report: Callable[[str], None]
) -> None:
    command = [sys.executable, "-m", "tests.torture.killed_studies", str(fast_folder), str(KILLS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    report(
        f"SIGKILL of fpm study: {found['kills']} kills of {found['studies']} studies of "
        f"{found['runs_of_each']} runs; {found['identical_rows']} ended with the same rows and "
        f"{found['identical_checkpoints']} with the same bytes in every last checkpoint"
    )
    assert found["kills"] >= KILLS
    assert found["identical_rows"] == found["identical_checkpoints"] == found["studies"]


# $1: where the small disk is mounted; the rest: a study's command on it, as `fpm` takes it.
FULL = """
mount -t tmpfs -o size=6m tmpfs "$1" || exit 99
disk="$1"; shift
"$@" study depth $STUDY --out "$disk/study" 2> "$disk.full"; echo $?
mount -o remount,size=200m "$disk" || exit 99
"$@" study resume "$disk/study" > "$disk.shown" 2> "$disk.resumed"; echo $?
wc -l < "$disk/study/results.jsonl"
"""


@pytest.mark.torture
def test_a_full_disk_ends_a_study_with_what_it_needs_and_it_resumes(
    tmp_path: Path, report: Callable[[str], None]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = [*namespace, "mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this system lets a test mount no tmpfs of its own")
    flags = " ".join(BEGIN[2:])
    done = subprocess.run(
        [*namespace, "sh", "-c", FULL, "sh", str(disk), *FPM, "--quiet"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "STUDY": flags},
        timeout=600,
    )
    message = disk.with_suffix(".full").read_text(encoding="utf-8").strip()
    full, resumed, rows = (int(line) for line in done.stdout.split()[-3:])
    assert full == 1 and "space" in message, message
    assert (resumed, rows) == (0, 4), disk.with_suffix(".resumed").read_text(encoding="utf-8")
    report(f"full disk: a study on a tmpfs of 6 MiB ended with status {full}: {message}; it resumed")
