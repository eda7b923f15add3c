"""The page of a run: self-contained, complete, and readable without the pictures."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy

from fpm_cli.cli.app import run as fpm
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.reports.corpus_facts import corpus_facts
from fpm_cli.reports.run_facts import read_facts
from fpm_cli.reports.run_page import run_page
from tests.reports.html_page import Page
from tests.reports.report_runs import write_run, write_task_run


def test_a_page_is_self_contained_and_well_formed(tmp_path: Path) -> None:
    events = [{"kind": "skip", "step": 2, "message": "skipped: gradient norm 9 is 7 sigma above"}]
    run = write_run(tmp_path / "run", "train.lr=0.02", validation_losses={2: 6.5, 3: 6.1}, events=events)
    text = run_page(read_facts(run), [("却说", "却说曹操")])
    page = Page(text)
    assert "script" not in page.tags and page.links == ["data:,"]
    assert len(page.ids) == len(set(page.ids)) and "img" not in page.tags
    assert page.tags.count("svg") > 4 and text.count("<desc") == text.count('class="chart"') == 4
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    for fact in ("6.1000", "train.lr", "0.02", "1 skipped step", "却说曹操", "A100-SXM4-40GB"):
        assert fact in text


def test_names_and_messages_are_escaped(tmp_path: Path) -> None:
    events = [{"kind": "skip", "step": 2, "message": "<script>alert(1)</script>"}]
    run = write_run(tmp_path / "<script>", events=events)
    text = run_page(read_facts(run), [("<b>", "<i>")])
    assert "<script" not in text and "<b>" not in text and "<i>" not in text


def test_a_long_run_stays_below_a_megabyte(tmp_path: Path) -> None:
    losses = {step: 8 - step / 1e5 for step in range(1, 50_001)}
    events = [{"kind": "skip", "step": step, "message": "skipped: loss"} for step in range(1, 500)]
    text = run_page(read_facts(write_run(tmp_path / "run", losses=losses, events=events)))
    assert len(text.encode()) < 1_000_000


def test_a_fine_tuned_run_has_scores_and_a_confusion_matrix(tmp_path: Path) -> None:
    labels, predicted = [0, 0, 1, 1, 2, 2, 2, 2], [0, 1, 1, 1, 2, 2, 0, 2]
    text = run_page(read_facts(write_task_run(tmp_path / "run", predicted, labels)))
    Page(text)
    assert "accuracy, dev" in text and "0.7500" in text
    (matrix,) = re.findall(r'<table class="confusion">(.*?)</table>', text, re.DOTALL)
    first = re.findall(r">(\d+)</td>", matrix)[:15]
    assert first == ["1", "1", *["0"] * 13]  # class 100: one right, one taken for 101, of 15 classes


def test_a_run_without_steps_has_a_page(tmp_path: Path) -> None:
    text = run_page(read_facts(write_run(tmp_path / "run", losses={}, state="created")))
    Page(text)
    assert "no step was trained" in text


def test_the_unigram_entropy_is_that_of_the_validation_text(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    path = sample_corpora("CPM-X-S")
    run = read_facts(write_run(tmp_path / "run", corpus=str(path)))
    facts = corpus_facts(run)
    assert facts is not None
    counts = np.bincount(np.asarray(Corpus.open(path).split("validation").tokens, dtype=np.int64))
    assert facts.unigram_entropy == pytest.approx(entropy(counts))


def test_the_command_writes_page_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = write_run(tmp_path / "run", validation_losses={3: 6.1})
    assert fpm(["report", str(run)]) == 0
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    png = tmp_path / "run.png"
    capsys.readouterr()
    assert fpm(["report", str(run), "--png", str(png), "--json"]) == 0
    assert png.read_bytes().startswith(b"\x89PNG") and str(png) in capsys.readouterr().out
    assert fpm(["report", str(tmp_path / "absent")]) == 3


def test_the_masked_token_loss_of_a_bert_is_compared_with_the_unigram_entropy(
    tmp_path: Path, sample_corpora: Callable[[str], Path]
) -> None:
    rows = [{"kind": "validation", "step": 3, "loss": 9.5, "mlm": 9.0, "sentence_order": 0.5}]
    corpus = str(sample_corpora("BERT-C"))
    run = read_facts(write_run(tmp_path / "run", preset="BERT-C", corpus=corpus, events=rows))
    facts, text = corpus_facts(run), run_page(run)
    assert facts is not None and facts.unigram_entropy is not None
    assert "9.0000 nats per masked token" in text and f"{9 - facts.unigram_entropy:.3f} above" in text
