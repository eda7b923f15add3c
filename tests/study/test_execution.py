"""Running the commands of a study: what a diverged run, another failure and a full disk lead to."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from fpm_cli.errors import FpmError
from fpm_cli.study.chains import DIVERGED, Chain, Scoring, Stage
from fpm_cli.study.execution import run_chains

Usage = namedtuple("Usage", "total used free")


def scoring(folder: Path, name: str, command: str) -> Chain:
    """A chain of one shell command, whose output is a run's score."""
    run = folder / name
    run.mkdir()
    return Chain(name, (Scoring(run, ("sh", "-c", command), run / "score.json"),))


def run_all(folder: Path, *chains: Chain) -> list[str]:
    """The names of the chains whose command ended, in order."""
    ended: list[str] = []

    def on_done(chain: Chain, stage: Stage, seconds: float) -> None:
        ended.append(chain.name)

    run_chains(chains, folder / "logs", 1, on_done)
    return ended


def test_a_diverged_run_ends_its_chain_and_the_others_go_on(tmp_path: Path) -> None:
    diverged = scoring(tmp_path, "diverged", "echo error: training diverged at step 7 >&2; exit 5")
    assert run_all(tmp_path, diverged, scoring(tmp_path, "next", "echo {}")) == ["diverged", "next"]
    assert "step 7" in (tmp_path / "diverged" / DIVERGED).read_text(encoding="utf-8")
    assert diverged.next_stage() is None
    assert (tmp_path / "next" / "score.json").read_text(encoding="utf-8") == "{}\n"


def test_another_failure_ends_the_study_with_the_commands_message_and_status(tmp_path: Path) -> None:
    failing = scoring(tmp_path, "failing", "echo error: 3 checkpoints need 90 MiB >&2; exit 3")
    with pytest.raises(FpmError, match="failing: 3 checkpoints need 90 MiB") as caught:
        run_all(tmp_path, failing, scoring(tmp_path, "next", "echo {}"))
    assert caught.value.exit_status == 3
    assert not (tmp_path / "next" / "score.json").exists()


def test_a_disk_too_full_for_the_commands_message_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**20, 2**20 - 4096, 4096))
    with pytest.raises(FpmError, match="ended with status 1, and 4,096 bytes are free"):
        run_all(tmp_path, scoring(tmp_path, "silent", "exit 1"))
