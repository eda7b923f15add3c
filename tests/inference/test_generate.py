"""The next token is chosen as asked, and the same seed gives the same text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.sampling import SamplingConfig, sample_token
from tests.small_runs import tiny

LOGITS = torch.tensor([0.1, 3.0, 2.0, -1.0, 2.5])


def drawn(sampling: SamplingConfig, times: int = 2000) -> dict[int, float]:
    generator = torch.Generator().manual_seed(0)
    tokens = [sample_token(LOGITS, sampling, generator) for _ in range(times)]
    return {token: tokens.count(token) / times for token in set(tokens)}


def test_temperature_zero_and_top_one_take_the_likeliest() -> None:
    assert drawn(SamplingConfig(temperature=0), 10) == drawn(SamplingConfig(top_k=1), 10) == {1: 1.0}


def test_sampling_follows_the_softmax() -> None:
    expected = (LOGITS / 0.7).softmax(-1)
    shares = drawn(SamplingConfig(temperature=0.7))
    for token, share in enumerate(expected.tolist()):
        assert shares.get(token, 0.0) == pytest.approx(share, abs=0.04)


def test_top_k_keeps_k_and_top_p_the_fewest_that_reach_p() -> None:
    assert set(drawn(SamplingConfig(top_k=2))) == {1, 4}
    assert set(drawn(SamplingConfig(top_p=0.5))) == {1, 4}  # 0.48 alone falls short of 0.5
    assert set(drawn(SamplingConfig(top_p=0.4))) == {1}


@pytest.mark.parametrize("name", ["CPM-X-S", "CPM-2-X-S"])
def test_a_run_writes_the_same_text_for_the_same_seed(
    name: str, tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = tiny(name, "train.steps=1", "model.num_layers=2")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora(name)), "--out", str(run)]) == 0
    capsys.readouterr()

    def write(seed: int) -> str:
        ask = [
            "generate",
            str(run),
            "--prompt",
            "却说曹操",
            "--max-tokens",
            "70",
            "--seed",
            str(seed),
            "--json",
        ]
        assert fpm(ask) == 0
        return str(json.loads(capsys.readouterr().out)["texts"][0])

    assert write(1) == write(1)
    assert write(1) != write(2)
    assert write(1).startswith("却说曹操")


def test_a_bert_does_not_generate(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = tiny("BERT-C", "train.steps=1", "model.num_layers=2")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("BERT-C")), "--out", str(run)]) == 0
    assert fpm(["generate", str(run), "--prompt", "却说"]) == 2
    assert "predicts masked tokens" in capsys.readouterr().err
