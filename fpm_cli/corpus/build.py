"""Builds a corpus: shards are cleaned, duplicates found over all of them, shards encoded, and merged.

    inputs -> unpack (archives) -> shards -> clean_shard (each) -> Decider (all) -> encode_shard (each)
    -> merge_split

Everything goes through `OUT.building`, where finished shards are entered in a journal: a build that was
stopped at any moment goes on from there, and gives the same bytes as one that ran through.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpm_cli import __version__
from fpm_cli.corpus.card import write_card
from fpm_cli.corpus.clean import CLEAN, CleanTask, clean_shard
from fpm_cli.corpus.corpus import MANIFEST, TOKENIZER, Corpus
from fpm_cli.corpus.decide import DECISION, LOCATED, Decider
from fpm_cli.corpus.encode import ENCODED, EncodeTask, check_tokenizer, encode_shard, has_sentences
from fpm_cli.corpus.executors import Executor, Run, open_executor
from fpm_cli.corpus.files import atomic_write, checksum
from fpm_cli.corpus.hf import find_datasets
from fpm_cli.corpus.indexed import token_dtype
from fpm_cli.corpus.inputs import Input, find_inputs, resume_key
from fpm_cli.corpus.manifest import (
    SPLITS,
    Counts,
    FileFacts,
    InputFile,
    Manifest,
    Split,
    SplitFacts,
    TokenizerFacts,
)
from fpm_cli.corpus.merge import concatenate, merge_split
from fpm_cli.corpus.options import MIB, BuildOptions
from fpm_cli.corpus.shards import UNPACKED, Shard, UnpackTask, is_archive, plan_shards, unpack
from fpm_cli.corpus.work import WorkFolder, write_json
from fpm_cli.errors import FpmError, MissingError, UsageError
from fpm_cli.tokenization.base import Tokenizer

SHARD_BYTES = 64 * MIB
PLAN, LOCK, DEFECTS, OUT = "plan.json", "lock", "defects.jsonl", "out"

# Called with a stage's name, how many of its shards are done, and how many there are.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Built:
    """The finished corpus, and how long this run took to make or finish it."""

    corpus: Corpus
    seconds: float


@dataclass(frozen=True)
class Engine:
    """How the work is run; none of it changes the bytes that come out."""

    workers: int = 1
    executor: Executor = "local"
    shard_bytes: int = SHARD_BYTES
    report: Report = lambda stage, done, total: None


def build_corpus(
    inputs: list[Path], tokenizer: Tokenizer, out: Path, options: BuildOptions, engine: Engine | None = None
) -> Built:
    """Build, or go on building, the corpus in the folder `out`; it appears there when complete.

    Raises UsageError (`out` exists; the folder of an unfinished build belongs to another one; no token
    to end a document) and MissingError (an input is absent; too few documents are left).
    """
    started = time.perf_counter()
    engine = engine or Engine()
    check_tokenizer(tokenizer)
    work = WorkFolder(out.with_name(f"{out.name}.building"))
    if out.exists() and not (work.path / PLAN).exists():
        raise UsageError(f"{out} exists; a corpus is never overwritten: name another --out or remove it")
    files = find_datasets(inputs) if options.source == "hf" else find_inputs(inputs, options)
    with _locked(work):
        _begin(files, tokenizer, options, engine, work)
        if not out.exists():  # else only the work folder was left to remove
            with open_executor(engine.executor, engine.workers) as run:
                _unpack(files, options, engine, run, work)
                shards = plan_shards(files, options, engine.shard_bytes, work)
                _clean(shards, tokenizer, options, run, engine.report, work)
                if not (work.path / DECISION).exists():
                    engine.report("duplicates", 0, 1)
                    _decide(shards, options, work)
                _encode(shards, run, engine.report, work)
            engine.report("merge", 0, 1)
            _merge(files, shards, tokenizer, options, work)
            (work.path / OUT).rename(out)
        _remove(work)
    return Built(Corpus.open(out), time.perf_counter() - started)


@contextmanager
def _locked(work: WorkFolder) -> Iterator[None]:
    from filelock import FileLock, Timeout

    (work.path / "shards").mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FpmError(f"{work.path}: another process is building here") from None
    with lock:
        yield


def _begin(
    files: list[Input], tokenizer: Tokenizer, options: BuildOptions, engine: Engine, work: WorkFolder
) -> None:
    """Write the plan, or check that the one found is ours, so that no two builds are mixed."""
    plan: dict[str, Any] = {
        "fpm": __version__,
        "inputs": [resume_key(file) for file in files],
        "options": options.model_dump(mode="json"),
        "tokenizer": tokenizer.fingerprint,
        "shard_bytes": engine.shard_bytes,
    }
    path = work.path / PLAN
    if path.exists():
        found = json.loads(path.read_bytes())
        if differing := [key for key, value in plan.items() if found.get(key) != value]:
            raise UsageError(
                f"{work.path} is an unfinished build with other {', '.join(differing)}; "
                "give the same as then to go on with it, or remove it to start anew"
            )
    else:
        write_json(path, plan)
    if not (work.path / TOKENIZER).exists():
        tokenizer.save(work.path / TOKENIZER)


def _remove(work: WorkFolder) -> None:
    """Remove the work folder, the plan last: until then a build that is killed here is seen as finished."""
    for path in work.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != PLAN:
            path.unlink()
    shutil.rmtree(work.path)


def _unpack(files: list[Input], options: BuildOptions, engine: Engine, run: Run, work: WorkFolder) -> None:
    todo = [
        UnpackTask(number, file, options, engine.shard_bytes, work)
        for number, file in enumerate(files)
        if is_archive(file) and not work.is_finished(number, UNPACKED)
    ]
    for done, _ in enumerate(run(unpack, todo), start=1):
        engine.report("unpack", done, len(todo))


def _clean(
    shards: list[Shard],
    tokenizer: Tokenizer,
    options: BuildOptions,
    run: Run,
    report: Report,
    work: WorkFolder,
) -> None:
    todo = [
        CleanTask(shard, options, has_sentences(tokenizer), work)
        for shard in sorted(shards, key=lambda shard: shard.start - shard.end)  # the largest first
        if not work.is_finished(shard.number, CLEAN)
    ]
    done = len(shards) - len(todo)
    for _ in run(clean_shard, todo):
        done += 1
        report("clean", done, len(shards))


def _decide(shards: list[Shard], options: BuildOptions, work: WorkFolder) -> None:
    try:
        Decider(shards, options, work).decide()
    except MissingError:  # too few documents are left: going on cannot help, other options may
        shutil.rmtree(work.path)
        raise


def _encode(shards: list[Shard], run: Run, report: Report, work: WorkFolder) -> None:
    bound = json.loads((work.path / DECISION).read_bytes())["validation_bound"]
    todo = [
        EncodeTask(shard.number, work, work.path / TOKENIZER, bound)
        for shard in sorted(shards, key=lambda shard: shard.start - shard.end)
        if not work.is_finished(shard.number, ENCODED)
    ]
    done = len(shards) - len(todo)
    for _ in run(encode_shard, todo):
        done += 1
        report("encode", done, len(shards))


def _merge(
    files: list[Input], shards: list[Shard], tokenizer: Tokenizer, options: BuildOptions, work: WorkFolder
) -> None:
    out = work.path / OUT
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    numbers = [shard.number for shard in shards]
    encoded = [work.summary(number, ENCODED) for number in numbers]
    splits = {split: _add_up([summary["splits"][split] for summary in encoded]) for split in SPLITS}
    for split in SPLITS:
        merge_split(split, splits[split], numbers, token_dtype(tokenizer.vocab_size), work, out)
    with atomic_write(out / DEFECTS) as file:
        concatenate([*(work.file(number, "defects") for number in numbers), work.path / LOCATED], file)
    tokenizer.save(out / TOKENIZER)
    manifest = Manifest(
        source=options.source,
        inputs=tuple(_input_facts(file) for file in files),
        options=options.model_dump(mode="json", exclude={"source"}),
        tokenizer=TokenizerFacts(
            kind=tokenizer.kind, vocab_size=tokenizer.vocab_size, fingerprint=tokenizer.fingerprint
        ),
        counts=_counts(shards, splits, files, work),
        splits=splits,
        files={
            path.relative_to(out).as_posix(): FileFacts(bytes=path.stat().st_size, xxh3_128=checksum(path))
            for path in sorted(out.rglob("*"))
            if path.is_file()
        },
    ).sealed()
    manifest.write(out / MANIFEST)
    write_card(out, manifest)


def _add_up(facts: list[dict[str, int]]) -> SplitFacts:
    return SplitFacts(**{name: sum(part[name] for part in facts) for name in SplitFacts.model_fields})


def _input_facts(file: Input) -> InputFile:
    if file.path.is_file():
        return InputFile(name=file.name, bytes=file.path.stat().st_size, xxh3_128=checksum(file.path))
    return InputFile(name=file.name, bytes=0, xxh3_128="")


def _counts(
    shards: list[Shard], splits: dict[Split, SplitFacts], files: list[Input], work: WorkFolder
) -> Counts:
    summaries = [work.summary(shard.number, CLEAN) for shard in shards]
    decision = json.loads((work.path / DECISION).read_bytes())
    dropped, defects = Counter[str](decision["dropped"]), Counter[str](decision["defects"])
    repaired = Counter[str]()
    for summary, shard in zip(summaries, shards, strict=True):
        dropped.update(summary["dropped"])
        repaired.update(summary["repaired"])
        defects.update(summary["defects"])
        dropped.update(work.summary(shard.number, ENCODED)["dropped"])
    counts = Counts(
        documents_read=sum(summary["read"] for summary in summaries),
        documents_kept=sum(facts.documents for facts in splits.values()),
        dropped=dict(sorted(dropped.items())),
        repaired=dict(sorted(repaired.items())),
        defects=dict(sorted(defects.items())),
        bytes_in=sum(file.path.stat().st_size for file in files if file.path.is_file()),
    )
    assert counts.documents_read == counts.documents_kept + sum(dropped.values()), counts
    return counts
