"""Keeping what was read, and reading prompts together, changes no token."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.generate import generate, generate_reply
from fpm_cli.inference.sampling import SamplingConfig, sample_token
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.runs.run import Run
from tests.small_runs import tiny

NUM_PROMPTS = 100
SAMPLINGS = (
    SamplingConfig(max_tokens=12, temperature=0),
    SamplingConfig(max_tokens=12, top_k=50, top_p=0.9, temperature=1.3, seed=4),
)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, sample_corpora: Callable[[str], Path]
) -> Callable[[str], TrainedModel]:
    """A run of a preset with few layers and large weights, so that what it says depends on every token.

    In float64: how a sum is rounded depends on the shapes that are multiplied, and in float32 that
    tips one choice in some ten thousand, where two tokens are as likely as each other.
    """
    folder, made = tmp_path_factory.mktemp("runs"), dict[str, TrainedModel]()

    def load(name: str) -> TrainedModel:
        if name not in made:
            flags = tiny(name, "train.steps=1", "model.num_layers=2", "model.init_std=0.3")
            run = folder / name
            assert fpm(["-q", *flags, "--corpus", str(sample_corpora(name)), "--out", str(run)]) == 0
            made[name] = load_trained_model(Run.open(run))
            made[name].model.double()
        return made[name]

    return load


def prompts(trained: TrainedModel, longest: int) -> list[str]:
    """Stretches of the validation text, of many lengths."""
    tokens, chance = trained.corpus.split("validation").tokens, random.Random(0)
    found = []
    for _ in range(NUM_PROMPTS):
        start, length = chance.randrange(len(tokens) - longest), chance.randint(1, longest)
        found.append(trained.tokenizer.decode(tokens[start : start + length].tolist()).strip() or "却说")
    return found


def alone(trained: TrainedModel, prompt: str, sampling: SamplingConfig) -> str:
    """One prompt, everything read again for every token by the functions that training uses."""
    model, special = trained.model, trained.tokenizer.special
    generator = torch.Generator().manual_seed(sampling.seed)
    ids = trained.tokenizer.encode(prompt)
    made: list[int] = []
    with torch.inference_mode():
        while len(made) < sampling.max_tokens:
            if isinstance(model, GPT):
                window = trained.config.model.max_positions
                logits = model.logits(torch.tensor([[*ids, *made][-window:]]))
                ends = {special.eod}
            else:
                assert isinstance(model, EncoderDecoder) and special.bos is not None
                first, *others = special.sentinels
                tokens = torch.tensor([[*ids, first]])
                mask = torch.ones_like(tokens, dtype=torch.bool)
                decoder = torch.tensor([[special.bos, first, *made]])
                logits = model.decode(decoder, model.encode(tokens, mask), mask)
                ends = {special.eod, *others}
            token = sample_token(logits[0, -1], sampling, generator)
            if token in ends:
                break
            made.append(token)
    return trained.tokenizer.decode(ids + made)


@pytest.mark.parametrize("name", ["CPM-X-S", "CPM-2-X-S"])
def test_a_hundred_prompts_get_the_same_tokens_with_and_without_the_cache(
    name: str, trained: Callable[[str], TrainedModel]
) -> None:
    run = trained(name)
    asked = prompts(run, longest=30)
    for sampling in SAMPLINGS:
        expected = [alone(run, prompt, sampling) for prompt in asked]
        assert [generate(run, [prompt], sampling)[0] for prompt in asked[:50]] == expected[:50]
        assert generate(run, asked, sampling) == expected  # one batch of many lengths
        assert generate(run, asked[:10], sampling, cached=False) == expected[:10]
    assert len(set(expected)) > NUM_PROMPTS / 2  # it does not say the same to everything


def test_a_trained_run_says_the_same_in_float32(
    sample_corpora: Callable[[str], Path], tmp_path: Path
) -> None:
    """As `fpm generate` computes: weights that learnt something leave no ties for rounding to break."""
    flags = tiny("CPM-X-S", "train.steps=60", "model.num_layers=4", "train.sequence_length=64")
    run = tmp_path / "run"
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("CPM-X-S")), "--out", str(run)]) == 0
    trained = load_trained_model(Run.open(run))
    assert all(weight.dtype == torch.float32 for weight in trained.model.parameters())
    asked = prompts(trained, longest=30)
    for sampling in SAMPLINGS:
        expected = [alone(trained, prompt, sampling) for prompt in asked]
        assert generate(trained, asked, sampling) == expected  # one batch
        assert [generate(trained, [prompt], sampling)[0] for prompt in asked[:20]] == expected[:20]


def test_beyond_its_positions_a_gpt_sees_the_last_ones(trained: Callable[[str], TrainedModel]) -> None:
    run = trained("CPM-X-S")
    window = run.config.model.max_positions
    asked = prompts(run, longest=window + 20)[:12]  # some longer than the window from the start
    sampling = SamplingConfig(max_tokens=window + 10, top_k=8)
    assert generate(run, asked, sampling) == [alone(run, prompt, sampling) for prompt in asked]


def test_a_reply_is_one_line_that_follows_the_turns_as_the_corpus_has_them(
    trained: Callable[[str], TrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("CPM-X-EVA")
    turns, sampling = "却说曹操\n玄德曰\n", SamplingConfig(max_tokens=40, seed=1)
    document = run.tokenizer.encode(turns + "关公曰")  # read_stc: a turn a line
    assert document[: len(run.tokenizer.encode(turns))] == run.tokenizer.encode(turns)
    continued = alone(run, turns, sampling).removeprefix(turns)
    assert generate_reply(run, ["却说 曹操", "玄德曰"], sampling) == continued.split("\n")[0]
    script = iter(run.tokenizer.encode("关公曰\n张飞曰"))
    monkeypatch.setattr("fpm_cli.inference.generate.sample_token", lambda *_: next(script))
    assert generate_reply(run, ["却说曹操", "玄德曰"], sampling) == "关公曰"
