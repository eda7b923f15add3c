"""Every planted defect is counted and located, and the rest of the input is kept whole."""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.options import build_options
from fpm_cli.streams import EXPANSION_FLOOR
from fpm_cli.tokenization.base import Tokenizer

GOOD = [f"Document number {i} is fine, and says so. Nothing is wrong with {i}." for i in range(20)]


def line(text: str, **fields: Any) -> bytes:
    return json.dumps({"text": text, **fields}).encode() + b"\n"


@pytest.fixture
def make(tmp_path: Path, gpt: Tokenizer) -> Any:
    """Builds files from their content and returns the corpus and its located defects."""

    def build(contents: dict[str, bytes], source: Any = "jsonl", **options: Any) -> tuple[Corpus, list[Any]]:
        folder = tmp_path / "in"
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        chosen = build_options(source, **{"near_duplicates": 0, **options})
        corpus = build_corpus([folder], gpt, tmp_path / "corpus", chosen).corpus
        lines = (corpus.path / "defects.jsonl").read_bytes().split(b"\n")[:-1]
        defects = [json.loads(entry) for entry in lines]
        counts = corpus.manifest.counts
        assert counts.documents_read == counts.documents_kept + sum(counts.dropped.values())
        assert sum(counts.defects.values()) == len(defects)
        return corpus, defects

    return build


def texts(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    def each() -> Iterator[str]:
        for split in corpus.manifest.splits:
            for sequence in corpus.split(split):
                yield tokenizer.decode(sequence[:-1].tolist())

    return sorted(each())


def place(defects: Iterable[Any], reason: str) -> list[tuple[str, int]]:
    return [(entry["input"], entry["offset"]) for entry in defects if entry["reason"] == reason]


def test_a_truncated_archive_keeps_all_before_the_cut(make: Any, gpt: Tokenizer) -> None:
    good = b"".join(map(line, GOOD))
    long = good + b"".join(line(f"{i}" + "x" * 50_000) for i in range(40))
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(long)
    gzipped = gzip.compress(long)
    corpus, defects = make({"a.jsonl.zst": packed[:-9], "b.jsonl.gz": gzipped[:-9]})
    assert set(GOOD) <= set(texts(corpus, gpt))
    assert [(entry["input"], entry["reason"]) for entry in defects if entry["reason"] == "truncated"] == [
        ("a.jsonl.zst", "truncated"),
        ("b.jsonl.gz", "truncated"),
    ]
    assert place(defects, "truncated")[0][1] <= len(long)


def test_a_corrupt_archive_ends_that_file_alone(make: Any, gpt: Tokenizer) -> None:
    frame = zstandard.ZstdCompressor().compress(b"".join(map(line, GOOD[:10])))
    corpus, defects = make({"a.jsonl.zst": frame + b"not a frame", "b.jsonl": b"".join(map(line, GOOD[10:]))})
    assert texts(corpus, gpt) == sorted(GOOD)
    assert place(defects, "corrupt_archive") == [("a.jsonl.zst", len(b"".join(map(line, GOOD[:10]))))]


def test_broken_lines_and_bytes_cost_only_themselves(make: Any, gpt: Tokenizer) -> None:
    parts = [
        *map(line, GOOD[:5]),
        b'{"text": "cut in the mid\n',
        b'{"text": "a lone \\ud83d surrogate here"}\n',
        b'{"text": "a byte \xff that is not UTF-8"}\n',
        b'{"text": "a NUL \x00 raw and one \\u0000 escaped"}\n',
        b"[1, 2]\n",
        b'{"title": "no text"}\n',
        *map(line, GOOD[5:]),
    ]
    offsets = [sum(map(len, parts[:i])) for i in range(len(parts))]
    corpus, defects = make({"a.jsonl": b"".join(parts)})
    repaired = ["a lone  surrogate here", "a byte  that is not UTF-8", "a NUL  raw and one  escaped"]
    assert texts(corpus, gpt) == sorted([*GOOD, *repaired])
    assert corpus.manifest.counts.dropped == {"broken_json": 1, "no_text_field": 2}
    assert corpus.manifest.counts.repaired == {"invalid_utf8": 1, "lone_surrogate": 1, "nul": 1}
    assert place(defects, "broken_json") == [("a.jsonl", offsets[5])]
    assert place(defects, "lone_surrogate") == [("a.jsonl", offsets[6])]
    assert place(defects, "invalid_utf8") == [("a.jsonl", offsets[7] + parts[7].index(b"\xff"))]
    assert place(defects, "nul") == [("a.jsonl", offsets[8])]
    assert place(defects, "no_text_field") == [("a.jsonl", offsets[9]), ("a.jsonl", offsets[10])]


@pytest.mark.parametrize("source", ["jsonl", "text", "wudao", "stc"])
def test_a_giant_line_is_skipped_without_being_held(make: Any, gpt: Tokenizer, source: str) -> None:
    giant = b"x" * 5_000_000
    contents = {
        "jsonl": line(GOOD[0]) + b'{"text": "' + giant + b'"}\n' + line(GOOD[1]),
        "text": GOOD[0].encode() + b"\n\n" + giant + b"\nits second line\n\n" + GOOD[1].encode(),
        "wudao": b'[{"content": "%s"}, {"content": "%s"},\n {"content": "%s"}]'
        % (GOOD[0].encode(), giant, GOOD[1].encode()),
        "stc": b'[["a b", "%s"], ["%s", "c"], ["a c", "%s"]]' % (GOOD[0].encode(), giant, GOOD[1].encode()),
    }
    name = "a.txt" if source == "text" else "a.json"
    corpus, defects = make({name: contents[source]}, source=source, max_document_bytes=1_000_000)
    assert corpus.manifest.counts.dropped == {"oversized": 1}
    assert corpus.manifest.counts.documents_kept == 2
    [(_, offset)] = place(defects, "oversized")
    assert offset == contents[source].index(giant) - {"jsonl": 10, "text": 0, "wudao": 13, "stc": 2}[source]


def test_an_archive_that_grows_beyond_the_limit_is_cut(make: Any, gpt: Tokenizer) -> None:
    compressor = zstandard.ZstdCompressor(3).compressobj()
    good = b"".join(map(line, GOOD))
    bomb = compressor.compress(good)
    for _ in range(EXPANSION_FLOOR // (1 << 20) + 16):
        bomb += compressor.compress(bytes(1 << 20))
    bomb += compressor.flush()
    corpus, defects = make({"a.jsonl.zst": bomb})
    assert texts(corpus, gpt) == sorted(GOOD)
    assert place(defects, "expansion_limit")[0][1] >= EXPANSION_FLOOR
    assert place(defects, "oversized") == [("a.jsonl.zst", len(good))]


def test_empty_files_and_repeated_ids_are_located(make: Any, gpt: Tokenizer) -> None:
    first = b"".join(line(text, id=i) for i, text in enumerate(GOOD))
    second = line("another text with an id that was seen", id=3) + line("a text without an id at all")
    contents = {"a.jsonl": first, "b.jsonl": second, "c.jsonl": b"", "d.jsonl.gz": gzip.compress(b"")}
    corpus, defects = make(contents, id_field="id")
    assert corpus.manifest.counts.dropped == {"duplicate_id": 1}
    assert place(defects, "duplicate_id") == [("b.jsonl", 0)]
    assert place(defects, "empty_file") == [("c.jsonl", 0), ("d.jsonl.gz", 0)]


def wudao(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "uniqueKey": f"k{number}", "title": f"题目{number}", **fields}


def test_wudao_arrays_lose_only_their_broken_records(make: Any, gpt: Tokenizer) -> None:
    records = [wudao(i, content=f"内容{i}：" + "好" * 20) for i in range(9)]
    records[4]["content"] = '括号 },{ "k" [{"a"' + "好" * 40 + "{"
    encoded = [json.dumps(record, ensure_ascii=False, indent=1) for record in records]
    encoded[2] = encoded[2].replace('"uniqueKey"', 'uniqueKey"')
    encoded[6] = encoded[6][:-40]
    content = "[\n" + ",\n".join(encoded) + "\n]\n"
    corpus, defects = make({"part-1.json": content.encode()}, source="wudao", filters="none")
    kept = [f"{r['title']}\n{r['content']}" for i, r in enumerate(records) if i not in (2, 6)]
    assert texts(corpus, gpt) == sorted(kept)
    assert corpus.manifest.counts.dropped == {"broken_json": 2}
    expected = [len(content[: content.index(encoded[i])].encode()) for i in (2, 6)]
    assert place(defects, "broken_json") == [("part-1.json", offset) for offset in expected]


def test_wudao_pages_of_low_density_are_left_out(make: Any) -> None:
    records = [wudao(i, content=f"一段关于{i}的正常文字，读来通顺。") for i in range(4)]
    records += [wudao(8, content="| * | -- | 3.5 | >> | * | // | ## | 。。。。")]
    corpus, _ = make({"part-1.json": json.dumps(records).encode()}, source="wudao")
    assert corpus.manifest.counts.dropped == {"low_density": 1}


def test_pile_takes_the_papers_partitions_and_sets(make: Any) -> None:
    def record(text: str, name: str) -> bytes:
        return line(text, meta={"pile_set_name": name})

    contents = {
        "02.jsonl": record("One from the web.", "Pile-CC") + record("def f(): pass", "Github"),
        "04.jsonl": record("Two, from a book.", "Books3") + record("Q: how? A: so.", "StackExchange"),
        "05.jsonl": record("Not selected.", "Pile-CC"),
    }
    corpus, _ = make(contents, source="pile")
    assert corpus.manifest.counts.dropped == {"excluded_set": 2}
    assert [file.name for file in corpus.manifest.inputs] == ["02.jsonl", "04.jsonl"]


def test_dialogues_follow_the_papers_rules(make: Any, gpt: Tokenizer) -> None:
    pairs = [(f"这 是 第 {i} 个 帖 子", f"我 觉 得 第 {i} 个 not bad 很 有 意 思") for i in range(5)]
    pairs += [("今 天 下 雨", f"回 复 里 的 第 {i} 种 看 法") for i in range(40)]
    pairs += [("好 看", "哇 ！ ！ ！"), ("好 看", "加 微 信 ： abc12345 有 优 惠"), ("没 有 回 复", "")]
    content = "\n".join("\t".join(pair) for pair in pairs).encode()
    corpus, _ = make({"pairs.tsv": content}, source="stc")
    assert corpus.manifest.counts.dropped == {
        "advertisement": 1,
        "beyond_responses": 10,
        "no_response": 1,
        "trivial_response": 1,
    }
    assert "这是第0个帖子\n我觉得第0个not bad很有意思" in texts(corpus, gpt)


@pytest.mark.parametrize("indent", [None, 0])
def test_dialogue_lists_are_found_at_any_depth(make: Any, gpt: Tokenizer, indent: int | None) -> None:
    dialogues = [[f"你 好 {i}", "再 见 [", f"[ 走 {i}"] for i in range(6)]
    nested = json.dumps({"train": dialogues[:4], "valid": [dialogues[4:]]}, ensure_ascii=False, indent=indent)
    listed = "\n".join(json.dumps([*dialogue, "完"]) for dialogue in dialogues)
    corpus, defects = make({"a.json": nested.encode(), "b.jsonl": listed.encode()}, source="stc")
    assert corpus.manifest.counts.documents_kept == 12
    assert defects == []
    assert "你好0\n再见[\n[走0" in texts(corpus, gpt)
