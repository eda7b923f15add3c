"""A run holds its tokenizer: it is used, exported and fine-tuned from when its corpus is no longer there."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.runs.run import Run
from tests.small_runs import tiny
from tests.tasks.tuned_runs import finetune_flags


def test_a_run_whose_corpus_moved_is_generated_from_scored_exported_and_fine_tuned(
    place: Path, sample_corpora: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, moved, run = tmp_path / "corpus", tmp_path / "moved", tmp_path / "EPM-X-S"
    shutil.copytree(sample_corpora("EPM-X-S"), corpus)
    flags = tiny("EPM-X-S", "train.steps=1", "model.num_layers=2")
    assert fpm(["-q", *flags, "--corpus", str(corpus), "--out", str(run)]) == 0
    fingerprint = load_trained_model(Run.open(run)).corpus.manifest.tokenizer.fingerprint
    corpus.rename(moved)
    assert load_trained_model(Run.open(run)).tokenizer.fingerprint == fingerprint
    capsys.readouterr()
    assert fpm(["generate", str(run), "--prompt", "It is a truth", "--max-tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("It is a truth")
    assert fpm(["-q", "evaluate", "lm", str(run), "--corpus", str(moved), "--max-samples", "1"]) == 0
    assert fpm(["-q", "export", str(run), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    for name in ("praise.toml", "train.csv", "dev.csv"):
        shutil.copyfile(place / name, tmp_path / name)
    tuned = tmp_path / "tuned"
    assert fpm(["-q", *finetune_flags(tmp_path, "EPM-X-S", tuned, "finetune.epochs=0.2")]) == 0
    assert load_trained_model(Run.open(run)).tokenizer.fingerprint == fingerprint
