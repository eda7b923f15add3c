import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.tokenization.base import Tokenizer

TEXT = BuildOptions(source="text", validation_fraction=0.2, near_duplicates=0)


def stories(number: int) -> str:
    return "\n\n".join(f"Story {i} begins. It ends.\nA second line. 完了。" for i in range(number))


def build(inputs: list[Path], tokenizer: Tokenizer, out: Path, options: BuildOptions = TEXT) -> Corpus:
    return build_corpus(inputs, tokenizer, out, options).corpus


def decoded(corpus: Corpus, tokenizer: Tokenizer) -> set[tuple[int, ...]]:
    return {
        tuple(map(int, sequence)) for split in ("train", "validation") for sequence in corpus.split(split)
    }


def test_each_document_ends_with_eod_and_none_is_lost(tmp_path: Path, gpt: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text(stories(40))
    corpus = build([tmp_path / "a.txt"], gpt, tmp_path / "corpus")
    expected = {(*gpt.encode(text), gpt.special.eod) for text in stories(40).split("\n\n")}
    assert decoded(corpus, gpt) == expected
    assert corpus.manifest.counts.documents_read == corpus.manifest.counts.documents_kept == 40
    assert 0 < corpus.split("validation").num_documents < 20
    assert corpus.word_starts("train") is None


def test_bert_corpora_hold_sentences_and_whole_words(tmp_path: Path, bert: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text(stories(30) + "\n\nOne sentence only")
    corpus = build([tmp_path / "a.txt"], bert, tmp_path / "corpus")
    assert corpus.manifest.counts.dropped == {"fewer_than_two_sentences": 1}
    train = corpus.split("train")
    assert set(np.diff(train.document_index)) == {4}
    words = corpus.word_starts("train")
    assert words is not None and len(words) == train.num_tokens
    starts = [int(pointer) // 2 for pointer in train.pointers]
    assert all(words[starts] == 1)
    first = "完了。"
    assert (tuple(bert.encode(first))) in decoded(corpus, bert)


def test_documents_read_are_kept_or_dropped_with_a_reason(tmp_path: Path, gpt: Tokenizer) -> None:
    lines: list[Any] = [
        {"text": "first document"},
        {"text": "second document"},
        {"text": "first  document"},
        {"text": "first document"},
        {"text": " "},
        {"text": "tiny"},
        {"body": "no text"},
        {"text": 3},
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    content += b'\n{"text": "cut off\n\n{"text": "bad \xff byte here"}\n{"text": "bad \\ud800 here"}\n[1]'
    (tmp_path / "a.jsonl").write_bytes(content)
    options = BuildOptions(source="jsonl", validation_fraction=0.5, min_characters=6)
    counts = build([tmp_path / "a.jsonl"], gpt, tmp_path / "corpus", options).manifest.counts
    assert counts.dropped == {
        "broken_json": 1,
        "empty": 1,
        "exact_duplicate": 1,
        "no_text_field": 3,
        "too_short": 1,
    }
    assert counts.repaired == {"invalid_utf8": 1, "lone_surrogate": 1}
    assert counts.documents_read == counts.documents_kept + sum(counts.dropped.values()) == 12


def test_compression_and_folders_change_nothing(tmp_path: Path, gpt: Tokenizer) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    parts = [stories(9).encode(), b"Another file.", b"And one more."]
    (inside / "a.txt").write_bytes(parts[0])
    (inside / "b.txt.gz").write_bytes(gzip.compress(parts[1]))
    frames = [zstandard.ZstdCompressor().compress(part) for part in (parts[2][:5], parts[2][5:])]
    (inside / "c.txt.zst").write_bytes(b"".join(frames))
    (inside / "ignored.json").write_text("{}")
    (tmp_path / "all.txt").write_bytes(b"\n\n".join(parts))
    folder = build([inside], gpt, tmp_path / "one")
    single = build([tmp_path / "all.txt"], gpt, tmp_path / "two")
    assert [file.name for file in folder.manifest.inputs] == ["a.txt", "b.txt.gz", "c.txt.zst"]
    assert decoded(folder, gpt) == decoded(single, gpt)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, bert: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text(stories(20))
    one, two = (build([tmp_path / "a.txt"], bert, tmp_path / name) for name in ("one", "two"))
    assert one.manifest == two.manifest
    for name in [*one.manifest.files, "manifest.json"]:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_short_paragraphs_are_joined_on_request(tmp_path: Path, gpt: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {i:02}" for i in range(20)))
    options = BuildOptions(source="text", join_characters=30, near_duplicates=0)
    assert build([tmp_path / "a.txt"], gpt, tmp_path / "c", options).manifest.counts.documents_read == 7


@pytest.mark.parametrize("documents", [2, 3, 50])
def test_neither_split_is_ever_empty(tmp_path: Path, gpt: Tokenizer, documents: int) -> None:
    (tmp_path / "a.txt").write_text(stories(documents))
    options = BuildOptions(source="text", validation_fraction=0.0001, near_duplicates=0)
    corpus = build([tmp_path / "a.txt"], gpt, tmp_path / "corpus", options)
    assert corpus.split("validation").num_documents == 1
    assert corpus.split("train").num_documents == documents - 1


def test_text_sizes_are_counted_for_bits_per_byte(tmp_path: Path, gpt: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("一二三\n\nabcd")
    splits = build([tmp_path / "a.txt"], gpt, tmp_path / "corpus").manifest.splits.values()
    assert sum(facts.text_bytes for facts in splits) == 13
    assert sum(facts.text_characters for facts in splits) == 7
    assert sum(facts.tokens for facts in splits) == 15


def test_mistakes_are_refused(tmp_path: Path, gpt: Tokenizer, bert: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("only one")
    with pytest.raises(UsageError, match="exists"):
        build([tmp_path / "a.txt"], gpt, tmp_path)
    with pytest.raises(MissingError, match=r"absent\.txt"):
        build([tmp_path / "absent.txt"], gpt, tmp_path / "corpus")
    with pytest.raises(MissingError, match="1 of 1 documents left"):
        build([tmp_path / "a.txt"], gpt, tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_damage_is_named(tmp_path: Path, gpt: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text(stories(9))
    path = build([tmp_path / "a.txt"], gpt, tmp_path / "corpus").path
    content = bytearray((path / "train.bin").read_bytes())
    content[7] ^= 1
    (path / "train.bin").write_bytes(content)
    with pytest.raises(DamagedError, match=r"train\.bin"):
        Corpus.open(path).verify()
    (path / "train.bin").write_bytes(content[:-1])
    with pytest.raises(DamagedError, match=r"train\.bin"):
        Corpus.open(path)
    (path / "train.bin").unlink()
    with pytest.raises(MissingError, match=r"train\.bin"):
        Corpus.open(path)
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"documents_read": 9', '"documents_read": 8'))
    with pytest.raises(DamagedError, match="fingerprint"):
        Corpus.open(path)
