"""Pseudo-log-likelihood against a computation by hand with transformers' BERT, one sentence at a time."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.pseudo_likelihood import pseudo_log_likelihoods, score_pseudo_likelihood
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.runs.run import Run
from tests.small_runs import tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]) -> Path:
    run = tmp_path_factory.mktemp("bert") / "run"
    flags = tiny("BERT-E-S", "train.steps=1", "model.num_layers=2", "model.init_std=0.2")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("BERT-E-S")), "--out", str(run)]) == 0
    return run


def sentences(trained: TrainedModel, count: int) -> list[tuple[list[int], list[bool]]]:
    data, starts = trained.corpus.split("validation"), trained.corpus.word_starts("validation")
    assert starts is not None
    longest = trained.config.model.max_positions - 2
    found, first = [], 0
    for index in range(count):
        ids = data[index].tolist()
        kept = ids[:longest]
        found.append((kept, starts[first : first + len(kept)].astype(bool).tolist()))
        first += len(ids)
    return found


def test_twenty_sentences_by_hand(bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForPreTraining

    trained = load_trained_model(Run.open(bert))
    assert fpm(["-q", "export", str(bert), "--out", str(tmp_path / "out")]) == 0
    theirs = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    special = trained.tokenizer.special
    several = 0
    for ids, is_start in sentences(trained, 20):
        ours = pseudo_log_likelihoods(trained, ids, is_start)
        for position, token in enumerate(ids):
            masked = [special.cls, *ids, special.sep]
            masked[position + 1] = special.mask
            for later in range(position + 1, len(ids)):
                if is_start[later]:
                    break
                masked[later + 1] = special.mask
                several += 1
            with torch.inference_mode():
                logits = theirs(torch.tensor([masked])).prediction_logits[0, position + 1]
            assert ours[position] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-5)
    assert several > 5  # words of several tokens


def test_the_score_adds_up_its_sentences(bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = load_trained_model(Run.open(bert))
    score = score_pseudo_likelihood(trained, max_sentences=3)
    parts = sentences(trained, 3)
    total = sum(sum(pseudo_log_likelihoods(trained, *part)) for part in parts)
    text = sum(len(trained.tokenizer.decode(ids).encode()) for ids, _ in parts)
    assert score.pseudo_log_likelihood == pytest.approx(total)
    assert score.num_tokens == sum(len(ids) for ids, _ in parts)
    assert score.pseudo_bits_per_byte == pytest.approx(-total / math.log(2) / text)
    assert fpm(["evaluate", "lm", str(bert), "--max-samples", "2", "--pseudo-likelihood", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pseudo_bits_per_byte"] == pytest.approx(score.pseudo_bits_per_byte)
    assert document["bits_per_byte"] is None


def test_only_a_bert_has_one(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = tiny("EPM-X-S", "train.steps=1", "model.num_layers=2")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("EPM-X-S")), "--out", str(run)]) == 0
    assert fpm(["evaluate", "lm", str(run), "--max-samples", "1", "--pseudo-likelihood", "3"]) == 2
    assert "is no BERT" in capsys.readouterr().err
