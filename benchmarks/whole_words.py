"""Whole Chinese words for BERT, in bulk beside text by text: word starts, encoding, and a corpus's building.

    pip install -e '.[fast]'
    python -m benchmarks.whole_words --text ../shared/data/zh_classical_modern/modern.jsonl.zst

Both ways run in the same process on the same sentences, in turns; their results are compared first. CPU
seconds, the median of the rounds.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.measurements import Measurement, cpu_seconds, interleave, measurement, parse_arguments, report
from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.options import build_options
from fpm_cli.corpus.samples import sample_text
from fpm_cli.corpus.sentences import split_sentences
from fpm_cli.streams import open_input
from fpm_cli.tokenization import Tokenizer, train_tokenizer
from fpm_cli.tokenization.accelerate import Ragged
from fpm_cli.tokenization.wordpiece import WordPiece

MEGABYTE = 1_000_000


def main() -> None:
    """Run the three comparisons."""
    options = parse_arguments(__doc__, add_arguments)
    documents = read_documents(options.text, int(options.megabytes * MEGABYTE))
    sentences = [sentence for document in documents for sentence in split_sentences(document)]
    apart = train_tokenizer("bert-zh", documents, 8000, allow_smaller=True)
    whole = train_tokenizer("bert-zh", documents, 8000, allow_smaller=True, whole_words=True)
    encoded = apart.encode_ragged(sentences)
    comparisons: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "word starts (bert-zh)": (
            lambda: apart.word_starts_ragged(sentences, encoded).tolist(),
            lambda: word_starts_by_text(apart, sentences, encoded).tolist(),
        ),
        "encoding (bert-zh --whole-words)": (
            lambda: whole.encode_ragged(sentences).ids.tolist(),
            lambda: prepared_by_text(whole, sentences).ids.tolist(),
        ),
        "corpus (bert-zh)": (lambda: build(documents, apart), lambda: build_by_text(documents, apart)),
    }
    report((compare(name, *pair, options.rounds) for name, pair in comparisons.items()), options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--text", type=Path, help="JSON lines with `text`; default: the packaged sample")
    parser.add_argument("--megabytes", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)


def read_documents(path: Path | None, num_bytes: int) -> list[str]:
    """The first documents of a file of JSON lines, or the packaged sample as often as it takes."""
    if path is None:
        documents = sample_text("zh").read_text(encoding="utf-8").split("\n\n")
        copies = max(1, num_bytes // sum(len(document.encode()) for document in documents))
        return [f"{copy}{document}" for copy in range(copies) for document in documents]
    documents, size = [], 0
    with open_input(path) as stream:
        while size < num_bytes and (line := stream.readline()):
            documents += json.loads(line)["text"].split("\n\n")
            size += len(line)
    return documents


def compare(name: str, bulk: Callable[[], object], by_text: Callable[[], object], rounds: int) -> Measurement:
    """CPU seconds of both; their results must be equal."""
    assert bulk() == by_text()
    seconds = interleave({"bulk": partial(cpu_seconds, bulk), "text": partial(cpu_seconds, by_text)}, rounds)
    asked = 5.0 if name.startswith("corpus") else None
    return measurement(
        "whole Chinese words", name, "text by text", seconds["bulk"], seconds["text"], asked=asked
    )


def word_starts_by_text(tokenizer: Tokenizer, sentences: Sequence[str], encoded: Ragged) -> NDArray[np.bool_]:
    """Each sentence segmented and encoded by itself."""
    flags = chain.from_iterable(tokenizer.word_starts(sentence) for sentence in sentences)
    return np.fromiter(flags, np.bool_, len(encoded.ids))


def prepared_by_text(tokenizer: Tokenizer, sentences: Sequence[str]) -> Ragged:
    """Each sentence segmented by itself, all encoded together."""
    with mock.patch(
        "fpm_cli.tokenization.wordpiece.spaced_batch",
        lambda group: [tokenizer._prepared(text) for text in group],  # type: ignore[attr-defined]
    ):
        return tokenizer.encode_ragged(sentences)


def build(documents: Sequence[str], tokenizer: Tokenizer) -> str:
    """The fingerprint of a corpus of the documents, without a search for near-duplicates."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.txt"
        path.write_text("\n\n".join(documents), encoding="utf-8")
        options = build_options("text", near_duplicates=0)
        return build_corpus([path], tokenizer, Path(folder) / "out", options).corpus.manifest.fingerprint


def build_by_text(documents: Sequence[str], tokenizer: Tokenizer) -> str:
    """`build` with the word starts of each sentence by itself."""
    with mock.patch.object(WordPiece, "word_starts_ragged", word_starts_by_text):
        return build(documents, tokenizer)


if __name__ == "__main__":
    main()
