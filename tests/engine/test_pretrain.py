"""Every preset trains, saves and resumes; a resumed run is the uninterrupted one, bit for bit."""

import contextlib
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.accounting.calibration import Calibration
from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.cli.app import run as fpm
from fpm_cli.config.presets import preset_names
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus import samples
from fpm_cli.runs.run import Run
from tests.small_runs import metrics, tiny


def go_on(run: Path, steps: int) -> int:
    """Train a finished run to another last step; the exit status."""
    longer = ["--allow-config-change", "--set", f"train.steps={steps}"]
    return fpm(["--quiet", "pretrain", "--resume", "--out", str(run), *longer])


@pytest.mark.parametrize("name", preset_names())
def test_every_proxy_trains_saves_and_resumes(
    name: str, tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    corpus, run = str(sample_corpora(name)), tmp_path / "run"
    # A constant rate, so that it does not matter how many steps were planned.
    flags = tiny(name, "train.steps=2", "train.schedule=constant", "train.warmup_steps=0")
    assert fpm(["--quiet", *flags, "--corpus", corpus, "--out", str(run)]) == 0
    assert (run / "latest").read_text() == "step-2\n"
    assert go_on(run, 3) == 0
    assert (run / "latest").read_text() == "step-3\n"
    assert sorted(metrics(run, "train")) == [1, 2, 3]
    assert json.loads((run / "manifest.json").read_text())["state"] == "finished"


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    corpus = str(sample_corpora("BERT-C"))
    constant = ("train.schedule=constant", "train.warmup_steps=0", "model.dropout=0.1")
    through, parted = tmp_path / "through", tmp_path / "parted"
    flags = ["--corpus", corpus, "--out"]
    assert fpm(["-q", *tiny("BERT-C", "train.steps=5", *constant), *flags, str(through)]) == 0
    assert fpm(["-q", *tiny("BERT-C", "train.steps=2", *constant), *flags, str(parted)]) == 0
    assert go_on(parted, 5) == 0
    assert metrics(through, "train") == metrics(parted, "train")
    for name in ("weights-0.safetensors", "optimizer-0.safetensors", "state.json"):
        ours, theirs = (run / "checkpoints/step-5" / name for run in (through, parted))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_the_sample_corpus_is_built_leaves_a_run_to_go_on_with(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, built = signal.getsignal(number), []

    def build(config: RunConfig, out: Path) -> None:
        built.append(out)
        with contextlib.suppress(Exception):  # as readers do around a bad document
            signal.raise_signal(number)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr(samples, "build_sample_corpus", build)
    run = tmp_path / "run"
    assert fpm(["-q", *tiny("BERT-C"), "--out", str(run)]) == 75
    assert (
        f"stopped before training; continue with `fpm pretrain --resume --out {run}`"
        in capsys.readouterr().err
    )
    assert fpm(["-q", "pretrain", "--resume", "--out", str(run)]) == 75
    assert built == [run / "corpus"] * 2
    assert signal.getsignal(number) == before


def test_a_run_folder_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpm([*tiny("BERT-C"), "--out", str(tmp_path)]) == 2
    assert "--resume continues it" in capsys.readouterr().err


def test_a_resumed_run_with_another_configuration_is_refused(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    corpus = str(sample_corpora("BERT-C"))
    assert fpm(["-q", *tiny("BERT-C", "train.steps=1"), "--corpus", corpus, "--out", str(run)]) == 0
    again = tiny("BERT-C", "train.steps=1", "train.lr=3e-3")
    assert fpm([*again, "--resume", "--out", str(run)]) == 6
    assert "train.lr was" in capsys.readouterr().err


def test_a_corpus_of_another_vocabulary_is_refused(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tiny("BERT-C", "model.vocab_size=999")
    assert fpm([*flags, "--corpus", str(sample_corpora("BERT-C")), "--out", str(tmp_path / "run")]) == 6
    assert "model.vocab_size=" in capsys.readouterr().err


def test_a_diverging_run_ends_with_5_and_keeps_its_last_checkpoint(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    wild = ("train.lr=1e30", "train.warmup_steps=0", "train.steps=20", "train.save_every=1")
    corpus = str(sample_corpora("BERT-C"))
    assert fpm([*tiny("BERT-C", *wild), "--corpus", corpus, "--out", str(run)]) == 5
    assert "diverged" in capsys.readouterr().err
    saved, _ = load_weights(Run(run))
    assert all(weight.isfinite().all() for weight in saved.values())


def test_a_model_that_cannot_fit_ends_with_4_and_says_what_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpm(["pretrain", "--preset", "CPM-X-L", "--out", str(tmp_path / "run")]) == 4
    message = capsys.readouterr().err
    assert "needs" in message and "available" in message
    assert "--proxy" in message and "--dry-run" in message
    assert not (tmp_path / "run").exists()


def test_a_misspelt_preset_ends_with_2_and_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert fpm(["pretrain", "--preset", "CPM-XL"]) == 2
    assert "did you mean 'CPM-X-L'?" in capsys.readouterr().err


def test_the_progress_line_has_utilisation_and_money(
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Calibration((0.0,) * 5, 1e11, 1, "today", 0.0).save(tmp_path / "fpm" / "calibration.json")
    flags = tiny("BERT-C", "train.steps=1", "engine.recompute=full")
    corpus, run = str(sample_corpora("BERT-C")), tmp_path / "run"
    assert fpm([*flags, "--corpus", corpus, "--out", str(run), "--price", "36000"]) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("step      1/1"))
    found = re.search(r"MFU +([\d.]+)%  HFU +([\d.]+)%.*  cost ([\d.]+)$", line)
    assert found, line
    mfu, hfu, cost = map(float, found.groups())
    assert 0 < mfu < hfu < 100
    seconds = json.loads((run / "manifest.json").read_text())["launches"][0]["seconds"]
    assert 0 < cost <= seconds * 10  # 10 a second; the step was not the launch's last act
