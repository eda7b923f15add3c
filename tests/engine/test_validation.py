"""The validation loss counts every sample once, and training works where there is no validation split."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.corpus.samples import sample_text
from tests.preloaded import Preloaded
from tests.small_runs import metrics, tiny

FLAGS = ("train.steps=1", "train.eval_samples=23", "model.num_layers=2", "model.dropout=0")


@pytest.mark.parametrize("name", ["CPM-X-S", "BERT-C", "CPM-2-X-S"])
def test_the_validation_loss_does_not_depend_on_micro_batch_and_ranks(
    name: str, tmp_path: Path, sample_corpora: Callable[[str], Path], preloaded: Preloaded
) -> None:
    corpus, losses = str(sample_corpora(name)), {}
    for micro_batch, nproc in ((1, 1), (3, 1), (4, 1), (1, 2), (4, 2)):
        run = tmp_path / f"{micro_batch}-{nproc}"
        flags = tiny(name, *FLAGS, f"train.micro_batch={micro_batch}", "train.lr=1e-12", "train.min_lr=0")
        preloaded.fpm(["-q", *flags, "--corpus", corpus, "--out", str(run), "--nproc", str(nproc)])
        losses[micro_batch, nproc] = metrics(run, "validation")[1]
    first = losses[1, 1]
    assert losses == {key: pytest.approx(first, rel=1e-6) for key in losses}


def test_more_ranks_than_samples_validate_each_once(
    tmp_path: Path, sample_corpora: Callable[[str], Path], preloaded: Preloaded
) -> None:
    corpus = str(sample_corpora("CPM-X-S"))
    flags = tiny("CPM-X-S", *FLAGS, "train.eval_samples=1", "train.lr=1e-12", "train.min_lr=0")
    assert fpm(["-q", *flags, "--corpus", corpus, "--out", str(tmp_path / "one")]) == 0
    preloaded.fpm(["-q", *flags, "--corpus", corpus, "--out", str(tmp_path / "two"), "--nproc", "2"])
    one, two = (metrics(tmp_path / run, "validation")[1] for run in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize("name", ["CPM-X-S", "BERT-C", "CPM-2-X-S"])
def test_a_corpus_without_a_validation_split_is_trained_on(
    name: str, tmp_path: Path, sample_corpora: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    tokenizer = str(sample_corpora(name) / "tokenizer")
    source = ["build-corpus", "text", str(sample_text("zh")), "--tokenizer", tokenizer]
    assert fpm(["-q", *source, "--out", str(corpus), "--validation-fraction", "0"]) == 0
    flags = tiny(name, "train.steps=2", "train.eval_every=1", "train.save_every=1", "model.num_layers=2")
    assert fpm(["-q", *flags, "--corpus", str(corpus), "--out", str(run)]) == 0
    assert "no validation loss: the validation split" in caplog.text
    assert sorted(metrics(run, "train")) == [1, 2] and not metrics(run, "validation")
