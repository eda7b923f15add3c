"""A corpus or a split without documents is refused with its cause, and blocks no corrected command."""

import json
from pathlib import Path
from typing import Any

import pytest

from fpm_cli.corpus.build import Execution, build_corpus
from fpm_cli.corpus.options import build_options
from fpm_cli.errors import MissingError
from fpm_cli.tokenization.base import Tokenizer
from tests.corpus.builds import build_files, documents

RECORDS = [{"content": f"text number {i}", "title": str(i)} for i in range(9)]
WRONG_FIELD = "\n".join(map(json.dumps, RECORDS)).encode()


@pytest.mark.parametrize("validation_fraction", [0, 0.1])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WRONG_FIELD, r"no_text_field 9.*no text in 'text', but seen were: content, title; --text-field"),
        (json.dumps(RECORDS).encode(), r"no_text_field 1.*a JSON array is read as source wudao"),
        (json.dumps(RECORDS, indent=1).encode(), r"a JSON array is read as source wudao"),
        (b'{"text": "cut\n{"text": "off\n', r"broken_json 2.*each line must be one JSON object"),
        (b"", "0 of 0 documents"),
        (b'{"text": " "}\n' * 3, "empty 3"),
    ],
)
def test_a_corpus_of_no_document_is_refused_with_the_commonest_reason(
    tmp_path: Path, gpt: Tokenizer, content: bytes, message: str, validation_fraction: float
) -> None:
    with pytest.raises(MissingError, match=message):
        build_files(tmp_path, {"a.jsonl": content}, gpt, "jsonl", validation_fraction=validation_fraction)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    corpus = build_files(tmp_path, {"a.jsonl": WRONG_FIELD}, gpt, "jsonl", text_field="content")
    assert corpus.manifest.counts.documents_kept == 9


def test_the_corrected_text_field_is_the_title_of_a_wudao_array(tmp_path: Path, gpt: Tokenizer) -> None:
    corpus = build_files(tmp_path, {"a.json": json.dumps(RECORDS).encode()}, gpt, "wudao", filters="none")
    assert corpus.manifest.counts.documents_kept == 9


def test_a_missing_column_of_a_data_set_is_named(tmp_path: Path, gpt: Tokenizer) -> None:
    import datasets

    datasets.Dataset.from_dict({"body": ["one", "two"], "key": [1, 2]}).save_to_disk(tmp_path / "in")
    with pytest.raises(MissingError, match="no text in 'text', but seen were: body, key"):
        build_corpus([tmp_path / "in"], gpt, tmp_path / "corpus", build_options("hf"))


@pytest.mark.parametrize("validation_fraction", [0, 0.5])
def test_a_split_that_loses_its_documents_when_encoded_is_named(
    tmp_path: Path, bert: Tokenizer, validation_fraction: float
) -> None:
    # Zero-width characters are no token to BERT: no sentence of these documents is left.
    content = b"\n\n".join("\u200b\u200b\n\u200c".encode() + b"\xe2\x80\x8d" * i for i in range(1, 5))
    with pytest.raises(MissingError, match=r"split would be empty: 0 of 4 documents left.*no_tokens 4"):
        build_files(tmp_path, {"a.txt": content}, bert, validation_fraction=validation_fraction)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_lines_as_documents_are_suggested_where_one_paragraph_is_left(tmp_path: Path, gpt: Tokenizer) -> None:
    content = b"first document\nsecond document\nthird document\n"
    with pytest.raises(MissingError, match=r"would be empty: 1 of 1 documents left.*--document line"):
        build_files(tmp_path, {"a.txt": content}, gpt)
    corpus = build_files(tmp_path, {"a.txt": content}, gpt, document="line")
    assert documents(corpus) == ["first document", "second document", "third document"]


@pytest.mark.parametrize("shard_bytes", [None, 64])
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("paragraph", ["a b", "c\nd", "e"]),
        ("line", ["a b", "c", "d", "e"]),
        ("file", ["a b\n\nc\nd", "e"]),
    ],
)
def test_a_document_of_text_is_a_paragraph_a_line_or_a_file(
    tmp_path: Path, gpt: Tokenizer, document: Any, expected: list[str], shard_bytes: int | None
) -> None:
    (tmp_path / "a.txt").write_bytes(b"a b\n\n\n\nc\r\nd\n" if shard_bytes is None else b"a b\n\nc\nd\n")
    (tmp_path / "b.txt").write_bytes(b"\n\ne")
    options = build_options("text", near_duplicates=0, document=document, validation_fraction=0)
    execution = Execution(shard_bytes=shard_bytes or 1 << 20)
    inputs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    corpus = build_corpus(inputs, gpt, tmp_path / "corpus", options, execution).corpus
    assert documents(corpus) == expected
