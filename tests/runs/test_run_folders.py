"""What a run folder keeps, what a refused command leaves, and how runs are found."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.config.resolve import resolve
from fpm_cli.errors import MissingError, StoppedError
from fpm_cli.runs.find import newest_run
from fpm_cli.runs.manifest import RunState
from fpm_cli.runs.provenance import git_revision
from fpm_cli.runs.run import Run
from tests.small_runs import tiny

OLD_RUN = Path(__file__).parents[1] / "fixtures/run_0_1_0"
CONFIG = resolve("BERT-C", proxy=True, environment={}).config


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_RUN, tmp_path / "run"))


def test_a_refused_training_leaves_no_run_folder(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out, english = tmp_path / "run", str(sample_corpora("BERT-E-S"))
    small = [*tiny("CPM-X-S", "train.steps=1", "model.num_layers=2"), "--out", str(out)]
    refusals = {
        "a corpus of another tokenizer": ["--corpus", english],
        "too few sequences for the processes": ["--set", "engine.zero_stage=0", "--nproc", "3"],
        "no such interface": ["--nproc", "2", "--interface", "nosuch0"],
    }
    for name, flags in refusals.items():
        corpus = [] if "--corpus" in flags else ["--corpus", str(sample_corpora("CPM-X-S"))]
        assert fpm(["-q", *small, *corpus, *flags]) in (2, 3, 6), name
        assert "a bug" not in capsys.readouterr().err
        assert not out.exists(), name
    assert fpm(["-q", *small, "--corpus", str(sample_corpora("CPM-X-S"))]) == 0


def test_a_run_that_was_stopped_before_its_first_launch_is_kept(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG, None)
    with pytest.raises(StoppedError), run.removed_unless_launched():
        raise StoppedError("stopped")
    assert run.path.is_dir()


def test_a_run_generates_and_is_exported_with_its_tokenizer_without_its_corpus(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    shutil.copytree(sample_corpora("CPM-X-S"), corpus)
    begin = tiny("CPM-X-S", "train.steps=1", "model.num_layers=2")
    assert fpm(["-q", *begin, "--corpus", str(corpus), "--out", str(run)]) == 0
    shutil.rmtree(corpus)
    moved = tmp_path / "elsewhere/run"
    moved.parent.mkdir()
    run.rename(moved)
    assert fpm(["-q", "generate", str(moved), "--prompt", "话说", "--max-tokens", "3"]) == 0
    capsys.readouterr()
    assert fpm(["-q", "evaluate", "lm", str(moved)]) == 3
    assert str(corpus) in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["config.toml", "manifest.json"])
def test_an_unreadable_run_is_passed_over_by_name(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = Run.create(tmp_path / "good", CONFIG, None)
    bad = Run.create(tmp_path / "bad", CONFIG, None)
    (bad.path / damage).write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.toml").touch()
    assert newest_run(tmp_path).path == good.path
    assert "bad is passed over" in caplog.text and "empty is passed over" in caplog.text
    shutil.rmtree(good.path)
    with pytest.raises(MissingError, match="no run under"):
        newest_run(tmp_path)


def test_the_newest_run_of_a_kind_is_the_one_changed_last(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        run = Run.create(tmp_path / name, CONFIG, None)
        run.update_manifest(state=RunState.created if name == "new" else RunState.finished)
        os.utime(run.path / "manifest.json", (10**9 - age, 10**9 - age))
    assert newest_run(tmp_path).path.name == "new"
    assert newest_run(tmp_path, finished=True).path.name == "middle"
    with pytest.raises(MissingError, match="of qqp"):
        newest_run(tmp_path, task="qqp")


@pytest.mark.parametrize(
    "file",
    [
        "checkpoints/step-4/optimizer-0.safetensors",
        "checkpoints/step-4/weights-0.safetensors",
        "checkpoints/step-4/state.json",
    ],
)
def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_named_by_verify(
    old_run: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpm(["runs", "verify", str(old_run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"] == [4]
    content = bytearray((old_run / file).read_bytes())
    content[len(content) // 2] ^= 1
    (old_run / file).write_bytes(content)
    assert fpm(["runs", "verify", str(old_run)]) == 6
    assert file in capsys.readouterr().err


def test_a_resume_with_other_threads_says_that_the_last_bits_will_differ(
    old_run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(old_run)
    run.begin_launch(devices=1, device_name="cpu", first_step=4, threads_per_process=2)
    assert not caplog.text  # the launch before it did not record its threads
    run.begin_launch(devices=1, device_name="cpu", first_step=4, threads_per_process=2)
    assert not caplog.text
    run.begin_launch(devices=1, device_name="cpu", first_step=4, threads_per_process=1)
    assert "CPU threads per process 2 before and 1 now" in caplog.text
    assert run.manifest().launches[-1].threads_per_process == 1


def test_a_launch_records_its_threads(old_run: Path) -> None:
    assert fpm(["-q", "pretrain", "--resume", "--nproc", "1", "--out", str(old_run)]) == 0
    assert Run(old_run).manifest().launches[-1].threads_per_process == torch.get_num_threads()


def test_without_git_a_run_records_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision() is None
    assert Run.create(tmp_path / "run", CONFIG, None).manifest().git_revision is None


def test_the_revision_of_a_repository_around_the_package_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "theirs.txt").touch()
    git("add", "theirs.txt")
    git("commit", "-qm", "theirs")
    installed = tmp_path / "lib/site-packages/fpm_cli"
    beside = tmp_path / "fpm_cli"  # pip install --target .
    for package in (installed, beside):
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        assert git_revision(package) is None
    git("add", "fpm_cli")
    git("commit", "-qm", "a checkout")
    assert git_revision(beside) == git("rev-parse", "HEAD")
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    subprocess.run(["git", "init", "-q", str(elsewhere)], check=True)
    monkeypatch.setenv("GIT_DIR", str(elsewhere / ".git"))  # as inside a git hook
    monkeypatch.setenv("GIT_WORK_TREE", str(elsewhere))
    assert git_revision(beside) is not None
