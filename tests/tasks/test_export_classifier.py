"""A fine-tuned run becomes a classifier of transformers with the same logits, tokenizer and labels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fpm_cli.cli.app import run as fpm
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import load_task
from fpm_cli.tasks.examples import read_examples
from fpm_cli.tasks.predict import predict
from tests.small_runs import tiny
from tests.tasks.tuned_runs import finetune_flags


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("BERT-E-S", "MegatronBertForSequenceClassification"), ("EPM-X-S", "GPT2ForSequenceClassification")],
)
def test_transformers_predicts_what_fpm_predicts(
    name: str, class_name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    run, out = tmp_path / "run", tmp_path / "out"
    assert fpm(["-q", *finetune_flags(place, name, run, "finetune.epochs=2")]) == 0
    capsys.readouterr()
    assert fpm(["export", str(run), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["architecture"] == class_name
    assert document["compared"] == ["classification logits"] and document["difference"] < 1e-5

    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert type(model).__name__ == class_name and model.config.id2label == {0: "bad", 1: "good"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    task = load_task(run / "task.toml")
    examples = read_examples(task, place / "dev.csv").examples
    ours = predict(Run.open(run), task, examples)
    with torch.inference_mode():
        theirs = np.stack(
            [
                model(**tokenizer(example.text_a, return_tensors="pt")).logits[0].softmax(0).numpy()
                for example in examples
            ]
        )
    assert np.abs(ours - theirs).max() < 1e-5
    assert "Fine-tuned for the task praise on 72 examples" in (out / "README.md").read_text()
    assert fpm(["import", str(out), "--out", str(tmp_path / "again")]) == 2
    assert "would be lost" in capsys.readouterr().err


def test_a_classifier_that_transformers_does_not_have_is_refused_in_a_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert (
        fpm(["-q", *finetune_flags(place, "BERT-E-S", run, "finetune.epochs=0.2", "finetune.pooling=mean")])
        == 0
    )
    capsys.readouterr()
    assert fpm(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "finetune.pooling 'mean'" in message
    assert len(message.partition("error: ")[2].splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_pair_of_a_bert_has_token_types_and_a_long_text_is_truncated(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    import transformers

    run, out = tmp_path / "run", tmp_path / "out"
    flags = tiny("BERT-C", "train.steps=1", "model.num_layers=2", "model.max_positions=32")
    assert fpm(["-q", *flags, "--corpus", str(sample_corpora("BERT-C")), "--out", str(run)]) == 0
    assert fpm(["-q", "export", str(run), "--out", str(out)]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    pair = tokenizer("却说曹操", "玄德曰")
    assert pair["token_type_ids"] == [0] * 6 + [1] * 4
    assert tokenizer.model_max_length == 32
    assert len(tokenizer("却说曹操" * 100, truncation=True)["input_ids"]) == 32
    model = transformers.AutoModelForPreTraining.from_pretrained(out).eval()
    with torch.inference_mode():
        with_types = model.bert(**tokenizer("却说曹操", "玄德曰", return_tensors="pt")).pooler_output
        encoded = tokenizer("却说曹操", "玄德曰", return_tensors="pt")
        without = model.bert(encoded["input_ids"], encoded["attention_mask"]).pooler_output
    assert not torch.allclose(with_types, without, atol=1e-4)
