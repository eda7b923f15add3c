"""An exported run computes the same through transformers' own loading, and comes back unchanged."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.cli.app import run as fpm
from fpm_cli.inference.trained_model import TrainedModel, load_trained_model
from fpm_cli.models.bert import BERT
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.runs.run import Run
from tests.small_runs import tiny

TOLERANCE = 1e-5
POST = "model.norm_placement=post"


@pytest.fixture
def make_run(tmp_path: Path, sample_corpora: Callable[[str], Path]) -> Callable[..., Path]:
    def make(name: str, *assignments: str) -> Path:
        run = tmp_path / "run"
        flags = tiny(name, "train.steps=1", "model.num_layers=2", *assignments)
        assert fpm(["-q", *flags, "--corpus", str(sample_corpora(name)), "--out", str(run)]) == 0
        return run

    return make


def assert_same(trained: TrainedModel, theirs: Any) -> None:
    """Logits of both on real validation text."""
    ids = trained.corpus.split("validation").tokens[:48].astype("int64")
    tokens, model, theirs = torch.from_numpy(ids).view(2, 24), trained.model, theirs.eval()
    mask = torch.arange(24) < torch.tensor([[24], [11]])
    with torch.inference_mode():
        if isinstance(model, GPT):
            ours, expected = model.logits(tokens), theirs(tokens).logits
        elif isinstance(model, BERT):
            types = torch.zeros_like(tokens)
            ours = model.logits(tokens, types, mask)[0][mask]
            expected = theirs(tokens, mask.long(), types).prediction_logits[mask]
        else:
            assert isinstance(model, EncoderDecoder)
            ours = model.decode(tokens[:, :9], model.encode(tokens, mask), mask)
            expected = theirs(tokens, mask.long(), decoder_input_ids=tokens[:, :9]).logits
    assert float((ours - expected).abs().max()) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "assignments", "architecture"),
    [
        ("CPM-X-S", (), "GPT2LMHeadModel"),
        ("EPM-X-S", (), "GPT2LMHeadModel"),
        ("BERT-C", (), "MegatronBertForPreTraining"),
        ("BERT-C", (POST,), "BertForPreTraining"),
        ("CPM-2-X-S", (), "UntiedT5"),
    ],
)
def test_an_export_reloads_with_the_same_logits_and_comes_back_bit_for_bit(
    name: str,
    assignments: tuple[str, ...],
    architecture: str,
    make_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import transformers

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    run, out, again = make_run(name, *assignments), tmp_path / "out", tmp_path / "again"
    capsys.readouterr()
    assert fpm(["export", str(run), "--format", "transformers", "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["architecture"] == architecture and document["difference"] <= TOLERANCE

    trained = load_trained_model(Run.open(run))
    load = transformers.AutoModelForPreTraining.from_pretrained
    theirs = load(out, trust_remote_code=architecture == "UntiedT5")
    if architecture == "UntiedT5":  # never a network with a wrong head for who does not trust the code
        with pytest.raises(ValueError, match="trust_remote_code"):
            load(out, trust_remote_code=False)
    assert_same(trained, theirs)
    theirs.save_pretrained(tmp_path / "saved")  # as a user would, after fine-tuning there
    assert_same(trained, type(theirs).from_pretrained(tmp_path / "saved"))

    text = "却说 Whether tis nobler, 12%\n"
    if (out / "tokenizer.json").exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == trained.tokenizer.encode(text)
    else:
        assert "no tokenizer.json: jieba" in document["tokenizer"]

    card = (out / "README.md").read_text()
    assert "1 optimizer steps" in card and trained.corpus.manifest.fingerprint in card

    assert fpm(["-q", "import", str(out), "--out", str(again), "--name", "back"]) == 0
    returned = load_trained_model(Run.open(again))
    assert returned.config.model == trained.config.model.model_copy(
        update={"init_std": returned.config.model.init_std, "residual_init_scaled": True}
    )
    assert returned.tokenizer.fingerprint == trained.tokenizer.fingerprint
    (ours, _), (theirs, step) = load_weights(Run(run)), load_weights(Run(again))
    assert step == 0
    assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)
    capsys.readouterr()
    assert fpm(["evaluate", "lm", str(again)]) == 3
    assert "--corpus" in capsys.readouterr().err
    scores = []
    for score in ([str(run)], [str(again), "--corpus", str(trained.corpus.path)]):
        assert fpm(["-q", "evaluate", "lm", *score, "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["tokens_per_char"])
    assert scores[0] == scores[1]


def test_what_differs_is_not_kept(
    make_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from fpm_cli.interop.weight_mapping import to_transformers

    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        state = to_transformers(*arguments)
        return {name: value * 1.001 if "ln_f" in name else value for name, value in state.items()}

    run, out = make_run("CPM-X-S"), tmp_path / "out"
    monkeypatch.setattr("fpm_cli.interop.export_run.to_transformers", wrong)
    assert fpm(["export", str(run), "--out", str(out)]) == 1
    assert "more than rounding" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_without_transformers_it_says_what_to_install(
    make_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run("CPM-X-S")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert fpm(["export", str(run), "--out", str(tmp_path / "out")]) == 3
    assert "pip install 'fpm-depth[transformers]'" in capsys.readouterr().err


def test_a_network_that_transformers_does_not_have_is_refused(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("BERT-C", "model.norm_placement=deepnorm")
    assert fpm(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "deepnorm" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
