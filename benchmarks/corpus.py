"""How fast corpora are built and read, beside their peers, and how much memory a build takes.

    pip install -e '.[fast]' datasketch
    python -m benchmarks.corpus build --megatron ../Megatron-LM --vocab ../shared/data/vocab_gpt2
    python -m benchmarks.corpus near
    python -m benchmarks.corpus loader
    python -m benchmarks.corpus memory

Text is made by drawing sentences at random from `--text` (a file with one text or one JSON object
with `text` per line; the packaged sample by default), so that any amount can be had and no two documents
are near-duplicates by chance. Peers run in the same process order on the same input; every time is the
wall time from the first byte read to the last byte written, start-up included unless it is said.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurements import Measurement, cpu_seconds, interleave, measurement, parse_arguments, report
from fpm_cli.corpus.build import Execution, build_corpus
from fpm_cli.corpus.indexed import IndexedDataset
from fpm_cli.corpus.minhash import NUM_BANDS, ROWS_PER_BAND, SHINGLE_BYTES, band_keys
from fpm_cli.corpus.options import build_options
from fpm_cli.corpus.samples import sample_text
from fpm_cli.corpus.sentences import split_sentences
from fpm_cli.tokenization import Tokenizer, load_published, train_tokenizer

MEGABYTE = 1_000_000
NUM_PERMUTATIONS = NUM_BANDS * ROWS_PER_BAND
Figures = tuple[dict[str, Any], list[Measurement]]


def main() -> None:
    """Run one benchmark, and print what has no peer as JSON."""
    options = parse_arguments(__doc__, add_arguments)
    benchmark = {"build": build, "near": near, "loader": loader, "memory": memory}[options.benchmark]
    with tempfile.TemporaryDirectory() as folder:
        figures, rows = benchmark(options, Path(folder))
    print(json.dumps({options.benchmark: figures}, indent=2))
    report(rows, options.out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments besides `--out`."""
    parser.add_argument("benchmark", choices=["build", "near", "loader", "memory"])
    parser.add_argument("--text", type=Path, help="sentences are drawn from it; default: the packaged sample")
    parser.add_argument("--megabytes", type=float, default=200, help="of JSON lines for fpm's build")
    parser.add_argument("--peer-megabytes", type=float, default=20, help="of JSON lines for slower peers")
    parser.add_argument("--documents", type=int, default=4000, help="near: before duplicates are planted")
    parser.add_argument("--rounds", type=int, default=5, help="near and loader")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--megatron", type=Path, help="a checkout of Megatron-LM that runs here")
    parser.add_argument("--vocab", type=Path, help="a folder with GPT-2's encoder.json and vocab.bpe")


# Input


def sentences(options: argparse.Namespace) -> list[str]:
    """The sentences that documents are made of."""
    if options.text is None:
        return split_sentences(sample_text("en").read_text(encoding="utf-8"))
    lines = options.text.read_text(encoding="utf-8").split("\n")
    texts = (json.loads(line)["text"] if line.startswith("{") else line for line in lines if line)
    return [sentence for text in texts for sentence in split_sentences(" ".join(text.split()))]


def documents(options: argparse.Namespace, seed: int = 0) -> Iterator[str]:
    """Documents without end, some two kilobytes each."""
    rng, drawn = random.Random(seed), [text for text in sentences(options) if 20 < len(text) < 500]
    while True:
        yield " ".join(rng.choices(drawn, k=16))


def write_jsonl(path: Path, megabytes: float, options: argparse.Namespace) -> Path:
    """Write documents until the file has that size."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for text in documents(options):
            size += file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            if size >= megabytes * MEGABYTE:
                return path
    raise AssertionError("documents do not end")


def tokenizer_of(options: argparse.Namespace) -> Tokenizer:
    """GPT-2's own, or one of the same kind trained on the sample."""
    if options.vocab:
        return load_published("gpt-en", options.vocab)
    return train_tokenizer("gpt-en", sample_text("en").read_text(encoding="utf-8").split("\n\n"), 4096)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


# JSON lines to .bin and .idx


def build(options: argparse.Namespace, folder: Path) -> Figures:
    """Ours against Megatron-LM's tools/preprocess_data.py with the same workers and vocabulary.

    Each runs on a small and on a large input. The difference between the two is the rate without
    start-up; in CPU seconds of all its processes it does not depend on what else the machine does.
    """
    tokenizer = tokenizer_of(options)
    tokenizer.save(folder / "tokenizer")
    contestants: dict[str, tuple[float, Callable[[Path], None]]] = {
        "fpm": (options.megabytes, lambda path: _build(path, folder, 0.0, options.workers)),
        "fpm_with_near_duplicates": (
            options.megabytes,
            lambda path: _build(path, folder, 0.8, options.workers),
        ),
    }
    if options.megatron:
        contestants["megatron"] = (options.peer_megabytes, lambda path: _megatron(path, folder, options))
    figures: dict[str, Any] = {"workers": options.workers}
    for name, (megabytes, work) in contestants.items():
        small = write_jsonl(folder / f"{name}-small.jsonl", megabytes / 5, options)
        large = write_jsonl(folder / f"{name}-large.jsonl", megabytes, options)
        figures[name] = _rates([_run(path, work) for path in (small, large)])
    if not options.megatron:
        return figures, []
    _build(folder / "megatron-large.jsonl", folder, 0.0, options.workers)
    figures["same_ids"] = _same_ids(folder)
    what = "MB per CPU second, start-up apart"
    rates = [1 / figures[name][what]], [1 / figures["megatron"][what]]
    about = "JSON lines to an indexed corpus, CPU seconds per megabyte"
    return figures, [measurement("corpus building", about, "Megatron-LM's preprocess_data.py", *rates)]


def _run(path: Path, work: Callable[[Path], None]) -> tuple[float, float, float]:
    """Megabytes, wall seconds and CPU seconds of all child processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, _ = timed(partial(work, path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return path.stat().st_size / MEGABYTE, seconds, cpu


def _rates(runs: list[tuple[float, float, float]]) -> dict[str, float]:
    (small, small_seconds, small_cpu), (large, seconds, cpu) = runs
    return {
        "MB per wall second, start-up included": large / seconds,
        "MB per wall second, start-up apart": (large - small) / (seconds - small_seconds),
        "MB per CPU second, start-up apart": (large - small) / (cpu - small_cpu),
    }


def _build(path: Path, folder: Path, near: float, workers: int) -> None:
    """Our command line, start-up and all."""
    out = folder / f"{path.stem}-{near}"
    command = [sys.executable, "-m", "fpm_cli", "-q", "build-corpus", "jsonl", str(path), "--out", str(out)]
    command += ["--tokenizer", str(folder / "tokenizer"), "--near-duplicates", str(near)]
    command += ["--workers", str(workers), "--shard-mib", "16", "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _megatron(path: Path, folder: Path, options: argparse.Namespace) -> None:
    """Megatron-LM's tool with our tokenizer's tokenizer.json."""
    (folder / "tokenizer" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}'
    )
    command = [sys.executable, "tools/preprocess_data.py", "--input", str(path), "--append-eod"]
    command += ["--output-prefix", str(folder / "megatron"), "--workers", str(options.workers)]
    command += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(folder / "tokenizer")]
    subprocess.run(command, check=True, cwd=options.megatron, capture_output=True)


def _same_ids(folder: Path) -> bool:
    """Whether both wrote the same documents; ours stand in two splits, in the order of the input."""
    theirs = IndexedDataset(folder / "megatron_text_document")
    ours = [IndexedDataset(folder / "megatron-large-0.0" / split) for split in ("train", "validation")]
    found = sorted(sequence.tobytes() for dataset in ours for sequence in dataset)
    return found == sorted(sequence.tobytes() for sequence in theirs)


# Near-duplicates


def near(options: argparse.Namespace, folder: Path) -> Figures:
    """Our shingling and MinHash against a Python loop over rensa's and over datasketch's."""
    texts, truth = planted(options)
    encoded = [text.encode() for text in texts]
    figures: dict[str, Any] = {"documents": len(texts), "megabytes": sum(map(len, encoded)) / MEGABYTE}
    batch, tenth = 128, texts[: len(texts) // 10]
    sides: dict[str, Callable[[], object]] = {
        "fpm": lambda: [band_keys(encoded[i : i + batch]) for i in range(0, len(encoded), batch)],
        "rensa": partial(_rensa, texts),
        "datasketch": partial(_datasketch, tenth),
    }
    seconds = interleave({name: partial(cpu_seconds, work) for name, work in sides.items()}, options.rounds)
    seconds["datasketch"] = [len(texts) / len(tenth) * each for each in seconds["datasketch"]]
    figures["index_bytes_per_document"] = NUM_BANDS * (8 + 24)
    dropped = _dropped(texts, folder)
    figures["fpm"] = _quality(dropped, truth)
    rensa_dropped = _rensa_dropped(texts, _rensa(texts))
    figures["rensa_lsh_with_the_same_verification"] = _quality(rensa_dropped, truth)
    case = f"shingles and MinHash of {len(texts):,} documents"
    rows = [
        measurement("near-duplicates", case, name, seconds["fpm"], seconds[name])
        for name in ("rensa", "datasketch")
    ]
    return figures, rows


def planted(options: argparse.Namespace) -> tuple[list[str], set[int]]:
    """Documents, and the numbers of those that an exact comparison with their original would drop.

    A third of the documents is planted: copies with 0 to 16 words changed, so that similarities lie on
    both sides of the threshold of 0.8; the exact Jaccard similarity of the shingles says which count.
    """
    rng, source = random.Random(1), documents(options)
    texts = [next(source) for _ in range(options.documents)]
    truth: set[int] = set()
    for number in rng.sample(range(options.documents), options.documents // 2):
        original = texts[number]
        words = original.split(" ")
        for place in rng.sample(range(len(words)), rng.randrange(17)):
            words[place] = rng.choice(("lamp", "river", "seven", "quietly", "Paris", "under"))
        copy = " ".join(words)
        if _jaccard(original, copy) >= 0.8:
            truth.add(len(texts))
        texts.append(copy)
    return texts, truth


def _shingles(text: str) -> list[str]:
    return [text[i : i + SHINGLE_BYTES] for i in range(max(1, len(text) - SHINGLE_BYTES + 1))]


def _jaccard(one: str, other: str) -> float:
    a, b = (set(_byte_shingles(text.encode())) for text in (one, other))
    return len(a & b) / len(a | b)


def _byte_shingles(text: bytes) -> list[bytes]:
    """Runs of bytes that begin at a character, as the pipeline defines its shingles."""
    starts = range(max(1, len(text) - SHINGLE_BYTES + 1))
    return [text[i : i + SHINGLE_BYTES] for i in starts if text[i] & 0xC0 != 0x80]


def _rensa(texts: list[str]) -> list[Any]:
    from rensa import RMinHash

    sketches = []
    for text in texts:
        sketch = RMinHash(num_perm=NUM_PERMUTATIONS, seed=42)
        sketch.update(_shingles(text))
        sketches.append(sketch)
    return sketches


def _datasketch(texts: list[str]) -> list[Any]:
    from datasketch import MinHash

    sketches = []
    for text in texts:
        sketch = MinHash(num_perm=NUM_PERMUTATIONS)
        for shingle in _shingles(text):
            sketch.update(shingle.encode())
        sketches.append(sketch)
    return sketches


def _dropped(texts: list[str], folder: Path) -> set[int]:
    """The documents that our whole pipeline drops, found again by what is left."""
    path = folder / "near.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    tokenizer = train_tokenizer("gpt-en", ["a"], 257)
    corpus = build_corpus(
        [path], tokenizer, folder / "near", build_options("jsonl"), Execution(workers=1)
    ).corpus
    kept: dict[bytes, int] = {}
    for split in ("train", "validation"):
        for sequence in corpus.split(split):
            key = tokenizer.decode(sequence[:-1].tolist()).encode()
            kept[key] = kept.get(key, 0) + 1
    dropped = set()
    for index, text in enumerate(texts):
        if kept.get(text.encode(), 0):
            kept[text.encode()] -= 1
        else:
            dropped.add(index)
    return dropped


def _rensa_dropped(texts: list[str], sketches: list[Any]) -> set[int]:
    from rensa import RMinHashLSH

    index = RMinHashLSH(threshold=0.8, num_perm=NUM_PERMUTATIONS, num_bands=NUM_BANDS)
    for key, sketch in enumerate(sketches):
        index.insert(key, sketch)
    return {
        key
        for key, sketch in enumerate(sketches)
        if any(other < key and _jaccard(texts[other], texts[key]) >= 0.8 for other in index.query(sketch))
    }


def _quality(dropped: set[int], truth: set[int]) -> dict[str, float]:
    right = len(dropped & truth)
    return {
        "dropped": len(dropped),
        "precision": right / max(1, len(dropped)),
        "recall": right / max(1, len(truth)),
    }


# Reading


def loader(options: argparse.Namespace, folder: Path) -> Figures:
    """Random batches of a corpus: ours against a loop over samples of a memory map."""
    tokenizer = tokenizer_of(options)
    path = write_jsonl(folder / "loader.jsonl", min(options.megabytes, 50), options)
    settings = build_options("jsonl", near_duplicates=0.0)
    dataset = build_corpus([path], tokenizer, folder / "loader", settings).corpus.split("train")
    rows = []
    for length in (128, 512, 1024):
        rng, batch = np.random.default_rng(0), 64
        starts = rng.integers(0, dataset.num_tokens - length - 1, (200, batch))
        ours = partial(_read, dataset, starts, length)
        loop = partial(_read_by_sample, folder / "loader" / "train.bin", starts, length)
        assert ours() == loop()
        sides = {"fpm": partial(cpu_seconds, ours), "loop": partial(cpu_seconds, loop)}
        seconds = interleave(sides, options.rounds)
        case = f"{starts.size:,} random samples of {length} tokens"
        peer = "a loop over slices of a memory map"
        rows.append(measurement("reading a corpus", case, peer, seconds["fpm"], seconds["loop"]))
    return {"tokens": dataset.num_tokens}, rows


def _read(dataset: IndexedDataset, starts: np.ndarray, length: int) -> int:
    return sum(int(dataset.windows(batch, length)[:, -1].sum()) for batch in starts)


def _read_by_sample(path: Path, starts: np.ndarray, length: int) -> int:
    """A map opened for each batch and a slice for each sample, as small training scripts do."""
    total = 0
    for batch in starts:
        data = np.memmap(path, dtype=np.uint16, mode="r")
        rows = [data[start : start + length].astype(np.int64) for start in batch.tolist()]
        total += int(np.stack(rows)[:, -1].sum())
    return total


# Memory


def memory(options: argparse.Namespace, folder: Path) -> Figures:
    """Peak memory of a build of one process, at a tenth of the input and at the whole of it."""
    tokenizer_of(options).save(folder / "tokenizer")
    figures: dict[str, Any] = {}
    for megabytes in (options.megabytes / 10, options.megabytes):
        path = write_jsonl(folder / "memory.jsonl", megabytes, options)
        _build(path, folder, 0.8, workers=1)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        figures[f"{megabytes:.0f} MB"] = {"peak_bytes": peak}
        (folder / "memory-0.8").rename(folder / f"memory-{megabytes:.0f}")
    first, last = (figure["peak_bytes"] for figure in figures.values())
    figures["difference"] = last / first - 1
    return figures, []


if __name__ == "__main__":
    main()
