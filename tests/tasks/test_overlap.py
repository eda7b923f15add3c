"""Evaluation rows that are in a run's pretraining corpus are found, and scored apart from the others."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import TokenizerKind
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.samples import sample_text
from fpm_cli.runs.run import Run
from fpm_cli.tasks import overlap
from fpm_cli.tasks.definition import load_task
from fpm_cli.tasks.evaluate import EvaluationRequest, evaluate
from fpm_cli.tasks.overlap import search_corpus
from fpm_cli.tasks.task_run import TaskRun, open_task_run
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import train_tokenizer
from tests.corpus.builds import build_files
from tests.corpus.planted_copies import COPIES, LINES
from tests.tasks.tuned_runs import Oracle, tuned_run

TNEWS = load_task("tnews")
KINDS: list[tuple[TokenizerKind, bool]] = [
    ("gpt-en", False),
    ("gpt-zh", False),
    ("t5-en", False),
    ("t5-zh", False),
    ("bert-en", False),
    ("bert-zh", False),
    ("bert-zh", True),
]


@cache
def tokenizer_of(kind: TokenizerKind, whole_words: bool) -> Tokenizer:
    """Trained on half of the text, so that the rest has unknown characters; with whole words, on all of it.

    There a word is unknown if one of its characters is, and the words of a part are not those of the text.
    """
    text = sample_text("zh" if kind.endswith("zh") else "en").read_text(encoding="utf-8")
    texts = text[: len(text) if whole_words else len(text) // 2].split("\n\n")
    size = 6000 if whole_words else 1500
    return train_tokenizer(kind, texts, size, True, whole_words=whole_words)


def corpus_of(documents: list[str], tokenizer: Tokenizer, folder: Path) -> Corpus:
    content = "\n\n".join(documents).encode()
    options = {"validation_fraction": 0, "filters": "none"}
    return build_files(folder, {"a.txt": content}, tokenizer, **options)


@pytest.mark.parametrize(("kind", "whole_words"), KINDS)
def test_copies_are_found_in_a_corpus_of_every_tokenizer(
    kind: TokenizerKind, whole_words: bool, tmp_path: Path
) -> None:
    lines = list(dict.fromkeys(LINES["zh" if kind.endswith("zh") else "en"]))
    planted, absent, rest = lines[:40], lines[40:80], lines[80:]
    lost = {"full-width"} if kind in ("t5-en", "bert-en") else set()  # unknown to these vocabularies
    copies = [make for name, make in COPIES.items() if name not in lost]
    documents = [
        f"{around}\n{copies[index % len(copies)](row)}"
        for index, (row, around) in enumerate(zip(planted, rest, strict=False))
    ]
    corpus = corpus_of(documents, tokenizer_of(kind, whole_words), tmp_path)
    found = search_corpus(
        corpus, [[row, row[: row.find(" ", 80)]] for row in planted] + [[row] for row in absent]
    )
    assert found.some[:40].all()
    assert found.some[40:].sum() == 0
    assert list(COPIES)[:2] == ["whole", "partial"]
    assert found.whole[0 : 40 : len(copies)].all() and not found.whole[1 : 40 : len(copies)].any()


@pytest.fixture
def task_run(tmp_path: Path) -> TaskRun:
    """40 titles: the pretraining corpus has the first ten whole and parts of the next five."""
    titles = [line.replace("\n", "")[:40] for line in dict.fromkeys(LINES["zh"])][:40]
    rows = [{"sentence": title, "label": "101"} for title in titles]
    (tmp_path / "dev.json").write_text("\n".join(map(json.dumps, rows)))
    documents = [f"前。{title}" for title in titles[:10]] + [title[3:28] for title in titles[10:15]]
    corpus = corpus_of(documents, tokenizer_of("bert-zh", False), tmp_path)
    config = resolve("BERT-C", proxy=True, environment={}).config
    pretrained = Run.create(tmp_path / "pretrained", config, corpus.path)
    tuned = tuned_run(tmp_path / "run", TNEWS, [], tmp_path / "dev.json")
    record = tuned.run.manifest().task
    assert record is not None
    origin = record.origin.model_copy(update={"run": str(pretrained.path)})
    tuned.run.update_manifest(task=record.model_copy(update={"origin": origin}))
    return open_task_run(tuned.run.path, "tnews")


def test_scores_outside_the_pretraining_corpus_are_reported(task_run: TaskRun) -> None:
    report = evaluate(TNEWS, task_run, EvaluationRequest(), Oracle(wrong=4))
    document = json.loads(json.dumps(report.document()))
    assert (document["overlap"]["num_whole"], document["overlap"]["num_overlapping"]) == (10, 15)
    outside = document["overlap"]["outside"]
    assert outside["num_examples"] == 25
    assert outside["accuracy"] == sum(index % 4 != 0 for index in range(15, 40)) / 25


def test_a_large_corpus_is_searched_only_if_asked_for(
    task_run: TaskRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "AUTOMATIC_TOKENS", 100)
    report = evaluate(TNEWS, task_run, EvaluationRequest(), Oracle(wrong=4))
    assert report.overlap is None and report.overlap_unknown is not None
    assert "more than 100 tokens; --overlap searches it" in report.overlap_unknown
    report = evaluate(TNEWS, task_run, replace(EvaluationRequest(), overlap=True), Oracle(wrong=4))
    assert report.overlap is not None and report.overlap.some.sum() == 15


def test_where_the_corpus_is_not_known_the_reason_is(task_run: TaskRun, tmp_path: Path) -> None:
    (tmp_path / "corpus").rename(tmp_path / "moved")
    report = evaluate(TNEWS, task_run, EvaluationRequest(), Oracle(wrong=4))
    assert report.document()["overlap"] == {"not_searched": f"corpus {tmp_path / 'corpus'} is not there"}
    assert report.scores is not None and report.outside_corpus is None


def test_a_network_that_was_not_pretrained_has_no_overlap(task_run: TaskRun) -> None:
    record = task_run.run.manifest().task
    assert record is not None
    task_run.run.update_manifest(task=record.model_copy(update={"from_scratch": True}))
    report = evaluate(TNEWS, task_run, EvaluationRequest(), Oracle(wrong=4))
    assert report.document()["overlap"] is None
