"""Rows: the n-th operation on the disk fails, once or from then on; and a disk that is really full."""

import errno
import functools
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fpm_cli.checkpoints.checkpoint import load_weights, prune, remove_incomplete, verify_checkpoint
from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.cli.app import run as fpm
from fpm_cli.engine import trainer
from fpm_cli.engine.checkpointer import Checkpointer
from fpm_cli.files import LOCAL_DISK, Disk
from fpm_cli.runs.run import Run
from tests.small_checkpoints import write_checkpoint
from tests.small_runs import tiny
from tests.torture.scale import counts

FAULTS = ("ENOSPC", "EIO", "short write")
OPERATIONS = ("make_folder", "create", "write", "sync", "rename", "sync_folder", "remove", "remove_folder")


class Faulty(Disk):
    """The real disk, whose operation number `first` fails; if `sticky`, all after it do too."""

    def __init__(self, fault: str, first: int, *, sticky: bool):
        self.fault, self.first, self.sticky, self.count = fault, first, sticky, 0
        for name in OPERATIONS:
            setattr(self, name, functools.partial(self._do, name))

    def _do(self, name: str, *arguments: Any) -> Any:
        self.count += 1
        real = getattr(LOCAL_DISK, name)
        if self.count == self.first or (self.sticky and self.count > self.first):
            if self.fault != "short write":
                number = getattr(errno, self.fault)
                raise OSError(number, os.strerror(number))
            if name == "write":
                descriptor, data = arguments
                return real(descriptor, data[: max(1, len(data) // 2)])
        return real(*arguments)


def plans(kinds: int) -> Iterator[tuple[str, bool]]:
    return itertools.islice(itertools.product(FAULTS, (False, True)), kinds)


def loaded(run: Run) -> int:
    folder = find_latest_checkpoint(run)
    assert folder is not None
    verify_checkpoint(folder)
    weights, step = load_weights(run)
    assert bool((weights["a"] == step).all())
    return step


@pytest.mark.row
def test_any_failing_operation_leaves_a_whole_checkpoint(
    fast_folder: Path, report: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR")
    failed = survived = 0
    for fault, sticky in plans(6):
        for first in itertools.count(1):
            run = Run(fast_folder / "run")
            run.checkpoints.mkdir(parents=True)
            write_checkpoint(run, 1, {"a": torch.ones(9)})
            disk = Faulty(fault, first, sticky=sticky)
            try:
                write_checkpoint(run, 2, {"a": torch.full((9,), 2.0)}, ranks=1, disk=disk)
                prune(run, keep_last=1, keep_best=False, disk=disk)
                survived += 1
                assert loaded(run) == 2
            except OSError:
                failed += 1
                assert loaded(run) in (1, 2)
            remove_incomplete(run, LOCAL_DISK)
            write_checkpoint(run, 3, {"a": torch.full((9,), 3.0)})
            assert loaded(run) == 3
            shutil.rmtree(run.path)
            if disk.count < first:
                break
    report(
        f"disk faults: each operation of a save fails by {', '.join(FAULTS)}, once and from then on: "
        f"{failed} failed saves, {survived} that went on; all left a whole checkpoint, the next save works"
    )
    assert failed > 100


@counts(1, 24)
def test_a_run_whose_disk_fails_ends_with_1_and_its_last_checkpoint_whole(
    count: int,
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    report: Callable[[str], None],
) -> None:
    corpus = str(sample_corpora("BERT-C"))

    def train_on(disk: Faulty, run: Path, *assignments: str) -> int:
        monkeypatch.setattr(trainer, "Checkpointer", functools.partial(Checkpointer, disk=disk))
        sizes = ("train.steps=3", "train.save_every=1", "model.num_layers=2", "engine.keep_last=1")
        return fpm(
            ["-q", *tiny("BERT-C", *sizes, *assignments), "--corpus", corpus, "--out", str(run)],
        )

    whole = Faulty("EIO", 10**9, sticky=True)
    assert train_on(whole, tmp_path / "whole") == 0
    begin = whole.count // 3 + 10  # some of the second save's operations
    for number in range(count):
        first = begin + number * (whole.count - begin) // count
        run, asynchronous = tmp_path / str(number), str(number % 4 < 2).lower()
        disk = Faulty(FAULTS[number % 2], first, sticky=True)
        assert train_on(disk, run, f"engine.async_save={asynchronous}") == 1
        assert "could not be written" in capsys.readouterr().err
        folder = find_latest_checkpoint(Run(run))
        assert folder is not None
        verify_checkpoint(folder)
    monkeypatch.undo()
    assert fpm(["-q", "pretrain", "--resume", "--out", str(run)]) == 0
    report(
        f"disk faults in fpm pretrain: {count} runs, all ended with status 1 and a whole checkpoint before it"
    )


FULL = """
set -e
mount -t tmpfs -o size=12m tmpfs "$1"
cp -r "$2" "$1/corpus"
shift 2
exec "$@"
"""


@pytest.mark.torture
def test_a_full_disk_is_said_with_numbers_and_the_last_checkpoint_loads(
    tmp_path: Path, sample_corpora: Callable[[str], Path], report: Callable[[str], None]
) -> None:
    disk, corpus = tmp_path / "disk", sample_corpora("BERT-C")
    disk.mkdir()
    script = tmp_path / "on_full_disk.py"
    script.write_text(ON_FULL_DISK)
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        FULL,
        "sh",
        str(disk),
        str(corpus),
    ]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system lets a test mount no tmpfs of its own")
    flags = tiny("BERT-C", "train.steps=8", "train.save_every=1", "model.num_layers=2", "engine.keep_last=2")
    done = subprocess.run(
        [*command, sys.executable, str(script), str(disk), *flags],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report(f"full disk: a tmpfs of 12 MiB; {done.stdout.strip().splitlines()[-1]}")


ON_FULL_DISK = """
import shutil, sys
from pathlib import Path
from fpm_cli.cli.app import run as fpm
from fpm_cli.checkpoints.checkpoint import verify_checkpoint
from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.runs.run import Run

disk, flags = Path(sys.argv[1]), sys.argv[2:]
run = disk / "run"
begin = ["-q", *flags, "--corpus", str(disk / "corpus"), "--out", str(run)]
refused = fpm([*begin, "--set", "train.steps=80", "--set", "engine.keep_last=50"])
assert not run.exists()

from fpm_cli.engine import checkpointer
ballast = disk / "ballast"
whole = checkpointer.checkpoint.commit
def commit(run_, state, disk_):
    folder = whole(run_, state, disk_)
    if state.step == 3:  # someone else fills the disk
        with ballast.open("wb") as file:
            try:
                while True:
                    file.write(bytes(65536))
                    file.flush()
            except OSError:
                pass
    return folder
checkpointer.checkpoint.commit = commit
status = fpm(begin)
step = verify_checkpoint(find_latest_checkpoint(Run(run))).step
ballast.unlink()
again = fpm(["-q", "pretrain", "--resume", "--out", str(run)])
print(f"too many checkpoints refused with status {refused}; filled at step 3: status {status}, "
      f"step {step} loads; with room again: status {again}")
sys.exit((refused, status, again) != (1, 1, 0) or step < 3)
"""
