"""What `fpm pretrain` says about flags that do not go together and settings that look like a mistake."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.corpus.samples import sample_text
from tests.small_runs import tiny

SMALL = ("train.steps=2", "model.num_layers=2")


def test_a_warm_up_that_is_not_shorter_than_the_run_is_pointed_out(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = str(sample_corpora("CPM-X-S"))
    warning = "warning: train.warmup_steps 40 is not below train.steps 2"
    assert fpm([*tiny("CPM-X-S", *SMALL), "--corpus", corpus, "--out", str(tmp_path / "run")]) == 0
    assert warning in capsys.readouterr().err
    assert fpm([*tiny("CPM-X-S", *SMALL), "--dry-run"]) == 0
    assert warning in capsys.readouterr().err
    assert fpm([*tiny("CPM-X-S", *SMALL), "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1
    flags = tiny("CPM-X-S", *SMALL, "train.warmup_steps=1")
    assert fpm([*flags, "--corpus", corpus, "--out", str(tmp_path / "short")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_finished_run_refuses_another_corpus_and_says_that_nothing_is_left(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, other, run = sample_corpora("CPM-X-S"), tmp_path / "other", tmp_path / "run"
    build = ["build-corpus", "text", str(sample_text("zh")), "--tokenizer", str(corpus / "tokenizer")]
    assert fpm(["-q", *build, "--out", str(other), "--validation-fraction", "0.2"]) == 0
    assert fpm(["-q", *tiny("CPM-X-S", *SMALL), "--corpus", str(corpus), "--out", str(run)]) == 0
    before = (run / "manifest.json").read_bytes()
    capsys.readouterr()
    assert fpm(["pretrain", "--resume", "--out", str(run), "--corpus", str(other)]) == 6
    message = capsys.readouterr().err
    assert "nothing is left to train" in message and "corpus_fingerprint was" in message
    assert (run / "manifest.json").read_bytes() == before
    assert fpm(["pretrain", "--resume", "--out", str(run), "--corpus", str(corpus)]) == 0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--resume", "--dry-run"], "leave out --resume"),
        (["--preset", "CPM-X-S", "--proxy", "--devices", "2"], "--dry-run"),
        (["--preset", "CPM-X-S", "--proxy", "--device", "H100"], "--dry-run"),
    ],
)
def test_flags_of_the_dry_run_are_refused_elsewhere(
    flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpm(["pretrain", *flags, "--out", str(tmp_path / "run")]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
