"""Row: a changed configuration, corpus or tokenizer on resume is refused, and the field is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.cli.app import run as fpm
from fpm_cli.corpus.card import CARD, data_card
from fpm_cli.corpus.manifest import read_manifest
from tests.small_runs import metrics, tiny


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def renamed_source(corpus: Path) -> None:
    """Another corpus of the same tokenizer."""
    manifest = read_manifest(corpus / "manifest.json").model_copy(update={"source": "elsewhere"}).sealed()
    manifest.write(corpus / "manifest.json")
    (corpus / CARD).write_text(data_card(manifest), encoding="utf-8")


@pytest.mark.row
def test_what_changed_since_the_run_began_is_refused_by_name(
    tmp_path: Path,
    sample_corpora: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    report: Callable[[str], None],
) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    shutil.copytree(sample_corpora("BERT-C"), corpus)
    begin = tiny("BERT-C", "train.steps=2", "model.num_layers=2")
    assert fpm(["-q", *begin, "--corpus", str(corpus), "--out", str(run)]) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "state": "stopped"}))
    config = (run / "config.toml").read_bytes()
    resume = ["-q", "pretrain", "--resume", "--out", str(run)]
    refused = 0

    def refuses(field: str, *flags: str) -> None:
        nonlocal refused
        capsys.readouterr()
        assert fpm([*resume, *flags]) == 6, field
        said = capsys.readouterr().err
        assert field in said and "--allow-config-change" in said, said
        refused += 1

    for setting in (
        "train.lr=1e-3",
        "train.seed=7",
        "model.dropout=0.2",
        "engine.zero_stage=2",
        "train.steps=3",
    ):
        refuses(setting.partition("=")[0], "--set", setting)
    refuses("train.lr", "--preset", "BERT-C", "--proxy", "--set", "train.lr=1e-3")
    for key, old, new in (
        ("train.seed", "seed = 1234", "seed = 4321"),
        ("model.num_layers", "num_layers = 2", "num_layers = 3"),
        ("tokenizer", 'tokenizer = "bert-zh"', 'tokenizer = "bert-en"'),
    ):
        edit(run / "config.toml", old, new)
        refuses(key)
        (run / "config.toml").write_bytes(config)
    refuses("tokenizer_fingerprint", "--corpus", str(sample_corpora("CPM-X-S")))
    renamed_source(corpus)
    refuses("corpus_fingerprint")
    shutil.rmtree(corpus)
    shutil.copytree(sample_corpora("BERT-C"), corpus)

    longer = ["--allow-config-change", "--set", "train.steps=3", "--set", "train.lr=1e-3"]
    assert fpm([*resume, *longer]) == 0
    assert sorted(metrics(run, "train")) == [1, 2, 3]
    (change,) = json.loads((run / "manifest.json").read_text())["config_changes"]
    assert "train.lr was" in change and "train.steps was 2" in change
    report(
        f"changed on resume: {refused} of {refused} refused by name; allowed ones are in the run's manifest"
    )
