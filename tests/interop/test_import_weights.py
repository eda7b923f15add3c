"""Weights that config.json does not describe, or that are not floating-point numbers, are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.runs.run import Run
from tests.small_models import randomised

State = dict[str, Tensor]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A small BERT as transformers saves it."""
    from transformers import BertConfig, BertForPreTraining

    folder = tmp_path / "bert"
    config = BertConfig(
        vocab_size=12,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=80,
        max_position_embeddings=30,
    )
    randomised(BertForPreTraining(config), 0).save_pretrained(folder)
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A small GPT-2 of three layers as transformers saves it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=40, n_positions=40, n_embd=48, n_layer=3, n_head=3)
    randomised(GPT2LMHeadModel(config), 0).save_pretrained(folder)
    return folder


def change(folder: Path, edit: Callable[[State], Any], **config: object) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **config}))


def no_edit(state: State) -> None:
    """Leave the weights as they are."""


def quantise(state: State) -> None:
    """As bitsandbytes saves a matrix: int8 values and their scales."""
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    scale = state[name].abs().amax(1)
    state[name] = (state[name] / scale[:, None] * 127).round().to(torch.int8)
    state["bert.encoder.layer.0.intermediate.dense.SCB"] = scale


def add(name: str, value: Tensor) -> Callable[[State], None]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("edit", "config", "status", "words"),
    [
        (quantise, {}, 2, "intermediate.dense.weight is int8: the weights are quantised"),
        (no_edit, {"quantization_config": {"quant_method": "bitsandbytes"}}, 2, "quantised (bitsandbytes"),
        (add("classifier.weight", torch.zeros(2, 48)), {}, 2, "would be lost: classifier.weight"),
        (
            add("cls.predictions.decoder.weight", torch.ones(12, 48)),
            *({}, 6, "cls.predictions.decoder.weight is tied to bert.embeddings.word_embeddings.weight"),
        ),
    ],
)
def test_a_bert_with_weights_that_would_be_lost_or_misread_is_refused(
    edit: Callable[[State], None],
    config: dict[str, object],
    status: int,
    words: str,
    bert: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(bert, edit, **config)
    assert fpm(["import", str(bert), "--out", str(tmp_path / "run")]) == status
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def test_a_layer_more_than_the_configuration_says_is_refused(
    gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(gpt2, no_edit, n_layer=2)
    assert fpm(["import", str(gpt2), "--out", str(tmp_path / "run")]) == 2
    assert "does not describe 12 of the tensors, which would be lost: transformer.h.2." in (
        capsys.readouterr().err
    )


def test_constant_buffers_and_equal_copies_of_tied_weights_are_accepted(gpt2: Path, tmp_path: Path) -> None:
    def add_buffers(state: State) -> None:
        state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 40, 40, dtype=torch.uint8)
        state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        state["lm_head.weight"] = state["transformer.wte.weight"].clone()

    change(gpt2, add_buffers)
    assert fpm(["import", str(gpt2), "--out", str(tmp_path / "run")]) == 0


def test_settings_that_change_no_output_do_not_matter(bert: Path, tmp_path: Path) -> None:
    change(bert, no_edit, chunk_size_feed_forward=4, return_dict=False, output_attentions=True)
    assert fpm(["import", str(bert), "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("own_head", [True, False])
def test_a_t5_whose_head_has_its_own_values_is_untied_whatever_its_configuration_says(
    own_head: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    config = T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    theirs = T5ForConditionalGeneration(config)
    if own_head:
        theirs.lm_head = nn.Linear(32, 60, bias=False)
    randomised(theirs, 0).save_pretrained(tmp_path / "t5")
    assert json.loads((tmp_path / "t5" / "config.json").read_text())["tie_word_embeddings"] is True
    status = fpm(["import", str(tmp_path / "t5"), "--out", str(tmp_path / "run")])
    if own_head:
        assert status == 0
        model = load_trained_model(Run.open(tmp_path / "run")).model
        assert isinstance(model, EncoderDecoder) and model.head.weight.equal(theirs.lm_head.weight)
    else:
        assert status == 2 and "tie_word_embeddings" in capsys.readouterr().err


def test_a_vocabulary_with_windows_line_ends_is_read(bert: Path, tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"]
    (bert / "vocab.txt").write_bytes("\r\n".join([*pieces, ""]).encode())
    assert fpm(["import", str(bert), "--out", str(tmp_path / "run")]) == 0
    assert load_trained_model(Run.open(tmp_path / "run")).tokenizer.encode("c") == [7]
