"""Row: mutated index, manifest, TSV, JSONL and vocabulary files end in typed errors, in bounded memory.

`TORTURE_FUZZ=1000000 make torture` reads a tenth of the inputs.
"""

import os
import random
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.corpus.indexed import IndexedDataset
from fpm_cli.corpus.manifest import read_manifest
from fpm_cli.errors import FpmError
from fpm_cli.tasks.rows import delimited_rows, json_rows, text_lines
from fpm_cli.tokenization.published import load_published
from tests.indexed_files import write_indexed
from tests.torture.scale import counts

MANY = int(os.environ.get("TORTURE_FUZZ", "10_000_000"))  # over all readers
ROWS = 6  # of a table: most of what a reader takes is for the rows that no edit touched
MOST_MEMORY_GROWTH = 256 * 2**20  # bytes
EDGES = (b"\x00", b"\xff", b"\n", b"\t", b'"', b"{", b"[", b"\xe2\x80\xa8", b"-1", b"1e999", b"\xff" * 8)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four edits: a flipped bit, a cut, a copied stretch, or a byte sequence readers trip over."""

    def below(end: int) -> int:  # randrange takes three times as long
        return int(chance.random() * end)

    changed = bytearray(data)
    for _ in range(1 + below(4)):
        at = below(len(changed) + 1)
        kind = below(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << below(8)
        elif kind == 1:
            del changed[at : at + (1, 8, len(changed))[below(3)]]
        elif kind == 2:
            changed[at:at] = changed[at : at + 1 + below(64)]
        else:
            changed[at : at + below(9)] = EDGES[below(len(EDGES))]
    return bytes(changed)


def read_index(path: Path) -> None:
    dataset = IndexedDataset(path.with_suffix(""))
    for number in range(min(4, len(dataset))):
        dataset[number].sum()


def read_table(path: Path) -> None:
    columns = ["id", "first", "second"]
    for quoting in (True, False):
        rows = delimited_rows(text_lines(path), columns, "\t", quoting, lambda fields: len(fields) == 3)
        assert all((row.values is None) == bool(row.reason) for row in rows)


def read_vocabulary(path: Path) -> None:
    load_published("bert-en", path).encode("a word")


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "index": ("train.idx", read_index),
    "manifest": ("manifest.json", read_manifest),
    "TSV": ("rows.tsv", read_table),
    "JSON lines": ("rows.jsonl", lambda path: list(json_rows(path))),
    "vocabulary": ("vocab.txt", read_vocabulary),
}


@pytest.fixture
def originals(fast_folder: Path, sample_corpora: Callable[[str], Path]) -> Path:
    write_indexed(fast_folder / "train", [[list(range(number)), [0, 1, 2]] for number in range(20)], 1000)
    manifest = sample_corpora("BERT-C") / "manifest.json"
    (fast_folder / "manifest.json").write_bytes(manifest.read_bytes())
    (fast_folder / "rows.tsv").write_text('1\ta b\tc "d"\n' * ROWS, encoding="utf-8")
    (fast_folder / "rows.jsonl").write_text(
        '{"sentence": "a \\u4e00", "label": 1}\n' * ROWS, encoding="utf-8"
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "word", "##s"]
    (fast_folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return fast_folder


@counts(1_000, MANY // len(READERS))
@pytest.mark.parametrize("name", READERS)
def test_mutated_files_end_in_typed_errors(
    name: str, count: int, originals: Path, report: Callable[[str], None]
) -> None:
    file_name, read = READERS[name]
    path = originals / file_name
    whole, chance, refused = path.read_bytes(), random.Random(name), 0
    read(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with path.open("r+b", buffering=0) as file:
        for number in range(count):
            content = mutated(whole, chance)
            file.seek(0)
            file.write(content)
            file.truncate()
            try:
                read(path)
            except FpmError:
                refused += 1
            except Exception as error:
                kind = type(error).__name__
                raise AssertionError(f"{name}, input {number}: {kind} for {content[:300]!r}") from error
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_MEMORY_GROWTH
    report(f"fuzz, {name}: {count:,} inputs, {refused:,} refused, {count - refused:,} read, no other error")
