"""Scores mean what they say: checked against scipy and against a hand-made sum."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.language_model import entropy, score_language_model
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.objectives.build import build_samples
from fpm_cli.runs.run import Run
from tests.small_runs import tiny


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> Path:
    run = tmp_path_factory.mktemp("gpt") / "run"
    flags = tiny("EPM-X-S", "train.steps=1", "model.num_layers=2")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("EPM-X-S")), "--out", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def trained(gpt: Path) -> TrainedModel:
    return load_trained_model(Run(gpt))


def test_entropy_is_scipys() -> None:
    counts = np.random.default_rng(0).integers(0, 9, 500)
    assert entropy(torch.tensor(counts)) == pytest.approx(scipy_entropy(counts), rel=1e-12)


def test_the_score_is_the_sum_over_every_token_of_the_validation_text(trained: TrainedModel) -> None:
    score = score_language_model(trained)
    samples = build_samples(trained.config, trained.corpus, "validation")
    losses, labels = [], []
    for sample in samples:
        with torch.no_grad():
            logits = trained.model.logits(torch.from_numpy(sample["tokens"])[None])[0]  # type: ignore[operator]
        shares = logits.double().log_softmax(-1)
        losses += [-float(shares[i, label]) for i, label in enumerate(sample["labels"])]
        labels += list(sample["labels"])
    assert score.num_predictions == len(losses)
    assert score.loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert score.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert score.unigram_entropy == pytest.approx(scipy_entropy(np.bincount(labels)), abs=1e-9)
    about = trained.corpus.manifest.splits["validation"]
    assert score.bits_per_byte is not None and score.bits_per_char is not None
    assert score.bits_per_byte * about.text_bytes == pytest.approx(
        np.mean(losses) / math.log(2) * about.tokens, rel=1e-5
    )
    assert score.bits_per_char / score.bits_per_byte == pytest.approx(
        about.text_bytes / about.text_characters
    )


def test_json_holds_the_contract(gpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpm(["evaluate", "lm", str(gpt), "--json", "--max-samples", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "fpm.evaluate-lm/1"
    assert {"loss", "perplexity", "bits_per_byte", "bits_per_char", "tokens_per_char"} <= document.keys()


def test_a_folder_that_is_no_run_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fpm(["evaluate", "lm", str(tmp_path)]) == 3
    assert "not a run folder" in capsys.readouterr().err
