"""Row: mutated index, manifest, TSV, JSONL and vocabulary files end in typed errors, in bounded memory."""

import random
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from fpm_cli.corpus.indexed import IndexedDataset, IndexedWriter
from fpm_cli.corpus.manifest import read_manifest
from fpm_cli.errors import FpmError
from fpm_cli.tasks.rows import delimited_rows, json_rows, text_lines
from fpm_cli.tokenization.published import load_published
from tests.torture.scale import counts

MOST_MEMORY_GROWTH = 256 * 2**20  # bytes
EDGES = (b"\x00", b"\xff", b"\n", b"\t", b'"', b"{", b"[", b"\xe2\x80\xa8", b"-1", b"1e999", b"\xff" * 8)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four edits: a flipped bit, a cut, a copied stretch, or a byte sequence readers trip over."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[at : at + chance.choice((1, 8, len(changed)))]
        elif kind == 2:
            changed[at:at] = changed[at : at + chance.randint(1, 64)]
        else:
            changed[at : at + chance.randint(0, 8)] = chance.choice(EDGES)
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
    with IndexedWriter(fast_folder / "train", 1000) as writer:
        for number in range(20):
            writer.add_document([range(number), range(3)])
    manifest = sample_corpora("BERT-C") / "manifest.json"
    (fast_folder / "manifest.json").write_bytes(manifest.read_bytes())
    (fast_folder / "rows.tsv").write_text('1\ta b\tc "d"\n' * 20, encoding="utf-8")
    (fast_folder / "rows.jsonl").write_text('{"sentence": "a \\u4e00", "label": 1}\n' * 20, encoding="utf-8")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "word", "##s"]
    (fast_folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return fast_folder


@counts(1_000, 200_000)
@pytest.mark.parametrize("name", READERS)
def test_mutated_files_end_in_typed_errors(
    name: str, count: int, originals: Path, report: Callable[[str], None]
) -> None:
    file_name, read = READERS[name]
    path = originals / file_name
    whole, chance, refused = path.read_bytes(), random.Random(name), 0
    read(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        path.write_bytes(mutated(whole, chance))
        try:
            read(path)
        except FpmError:
            refused += 1
        except Exception as error:
            kept = path.read_bytes()[:300]
            raise AssertionError(f"{name}, input {number}: {type(error).__name__} for {kept!r}") from error
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_MEMORY_GROWTH
    report(f"fuzz, {name}: {count:,} inputs, {refused:,} refused, {count - refused:,} read, no other error")
