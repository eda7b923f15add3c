"""The next token is chosen as asked, and the same seed gives the same text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.sampling import SamplingConfig, sample_token
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.registry import load_tokenizer
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


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--temperature", "1e-45", "--temperature 1e-45: 0, or 0.001 to 1000"),
        ("--temperature", "nan", "'--temperature': Input should be"),
        ("--temperature", "inf", "'--temperature': Input should be"),
        ("--temperature", "-1", "'--temperature': Input should be greater than or equal to 0"),
        ("--top-p", "0", "--top-p 0: above 0, and at most 1"),
        ("--top-p", "nan", "'--top-p': Input should be"),
        ("--seed", str(2**64), f"'--seed': Input should be less than or equal to {2**31 - 1}"),
        ("--max-tokens", str(10**12), f"'--max-tokens': Input should be less than or equal to {2**20}"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(
    flag: str, value: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fpm(["generate", str(tmp_path), "--prompt", "x", flag, value]) == 2
    assert words in capsys.readouterr().err


def test_the_smallest_and_the_largest_temperature_give_a_token() -> None:
    for temperature in (1e-3, 1e3):
        assert set(drawn(SamplingConfig(temperature=temperature), 50)) <= set(range(5))
    assert drawn(SamplingConfig(temperature=1e-3), 50) == {1: 1.0}


def test_only_ids_of_the_tokenizer_are_generated(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Imported weights may have more embeddings than the tokenizer has entries."""
    from transformers import GPT2Config, GPT2LMHeadModel

    corpus = sample_corpora("EPM-X-S")
    vocab_size = load_tokenizer(corpus / "tokenizer").vocab_size
    sizes = {"n_positions": 128, "n_embd": 48, "n_layer": 2, "n_head": 3}
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size + 500, **sizes))
    with torch.no_grad():  # such that the surplus embeddings would always be chosen
        theirs.transformer.ln_f.bias.fill_(1.0)
        theirs.transformer.wte.weight[vocab_size:] += 10.0
    theirs.save_pretrained(tmp_path / "gpt2")
    run = str(tmp_path / "run")
    arguments = ["-q", "import", str(tmp_path / "gpt2"), "--out", run]
    assert fpm([*arguments, "--tokenizer", str(corpus / "tokenizer")]) == 0
    logits = load_trained_model(Run.open(tmp_path / "run")).model.logits(torch.tensor([[5, 6]]))  # type: ignore[operator]
    assert int(logits[0, -1].argmax()) >= vocab_size
    capsys.readouterr()
    assert fpm(["generate", run, "--prompt", "It is a truth", "--max-tokens", "8"]) == 0
    assert capsys.readouterr().out.startswith("It is a truth")
    assert fpm(["-q", "evaluate", "lm", run, "--corpus", str(corpus), "--max-samples", "2"]) == 0


def test_a_corpus_of_another_tokenizer_is_refused_with_a_flag_that_exists(
    tmp_path: Path, sample_corpora: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = tiny("EPM-X-S", "train.steps=1", "model.num_layers=2")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("EPM-X-S")), "--out", str(run)]) == 0
    capsys.readouterr()
    assert fpm(["evaluate", "lm", str(run), "--corpus", str(sample_corpora("CPM-X-S"))]) == 6
    message = capsys.readouterr().err
    assert "--set" not in message and str(sample_corpora("CPM-X-S")) in message
