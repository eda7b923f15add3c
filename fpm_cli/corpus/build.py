"""Builds a corpus: shards are cleaned, duplicates found over all of them, shards encoded, and merged.

    inputs -> unpack (archives) -> shards -> clean_shard (each) -> Deduplicator (all) -> encode_shard (each)
    -> assemble

All of it happens in the folder `OUT.building`, which records each finished shard: a build that was stopped
at any moment resumes from there and gives the same bytes as an uninterrupted one.
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fpm_cli.corpus.assemble import assemble
from fpm_cli.corpus.clean import CLEAN, EVALUATION_INDEX, CleanTask, clean_shard
from fpm_cli.corpus.contamination import EvaluationIndex
from fpm_cli.corpus.corpus import TOKENIZER, Corpus
from fpm_cli.corpus.deduplicate import DEDUPLICATED, Deduplicator
from fpm_cli.corpus.emptiness import empty_splits, too_few_documents
from fpm_cli.corpus.encode import ENCODED, EncodeTask, check_tokenizer, encode_shard, has_sentences
from fpm_cli.corpus.executors import Executor, RunTasks, open_executor
from fpm_cli.corpus.hf import find_datasets
from fpm_cli.corpus.inputs import Input, find_inputs
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.plan import PLAN, check_plan
from fpm_cli.corpus.shards import UNPACKED, Shard, UnpackTask, is_packed, plan_shards, unpack
from fpm_cli.corpus.validation_split import validation_bound
from fpm_cli.corpus.work_folder import WorkFolder, write_json
from fpm_cli.errors import FpmError, MissingError, UsageError
from fpm_cli.files import sync_folder
from fpm_cli.progress import StageReport, ignore_stage_report
from fpm_cli.streams import MIB
from fpm_cli.tokenization.base import Tokenizer

SHARD_BYTES = 64 * MIB
LOCK, OUT = "lock", "out"


@dataclass(frozen=True)
class BuildResult:
    """The finished corpus, and how many seconds this call took."""

    corpus: Corpus
    seconds: float


@dataclass(frozen=True)
class Execution:
    """How the work is run; nothing here changes the bytes of the corpus."""

    workers: int = 1
    executor: Executor = "local"
    shard_bytes: int = SHARD_BYTES
    report: StageReport = ignore_stage_report


def build_corpus(
    inputs: list[Path],
    tokenizer: Tokenizer,
    out: Path,
    options: BuildOptions,
    execution: Execution | None = None,
    evaluation_texts: Iterable[str] = (),
) -> BuildResult:
    """Build the corpus in the folder `out`, or resume its unfinished build; it appears there when complete.

    Documents that contain one of the `evaluation_texts` (see `contamination.py`) are dropped.

    Raises UsageError (`out` exists; the folder of an unfinished build belongs to another one; no token
    to end a document) and MissingError (an input is absent; too few documents are left).
    """
    started = time.perf_counter()
    execution = execution or Execution()
    index = EvaluationIndex.of(evaluation_texts)
    if index.ngrams or len(index.lines):
        options = options.model_copy(update={"contamination": index.fingerprint})
    check_tokenizer(tokenizer)
    work = WorkFolder(out.with_name(f"{out.name}.building"))
    if out.exists() and not (work.path / PLAN).exists():
        raise UsageError(f"{out} exists; a corpus is never overwritten: name another --out or remove it")
    selection = (find_datasets if options.source == "hf" else find_inputs)(inputs, options)
    files = selection.inputs
    with _locked(work):
        check_plan(files, tokenizer, options, execution.shard_bytes, work)
        index.write(work.path / EVALUATION_INDEX)
        if not out.exists():  # else only the work folder was left to remove
            with open_executor(execution.executor, execution.workers) as run:
                _unpack(files, options, execution, run, work)
                shards = plan_shards(files, options, execution.shard_bytes, work)
                _clean(shards, tokenizer, options, run, execution.report, work)
                if not (work.path / DEDUPLICATED).exists():
                    _deduplicate(shards, options, execution.report, work)
                _encode(shards, run, execution.report, work)
            if empty := empty_splits(shards, options, work):
                raise _abandon(empty, work)
            assemble(selection, shards, tokenizer, options, work, work.path / OUT, execution.report)
            (work.path / OUT).rename(out)
            sync_folder(out.parent)
        _remove(work)
    return BuildResult(Corpus.open(out), time.perf_counter() - started)


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


def _remove(work: WorkFolder) -> None:
    """Remove the work folder, the plan last: until then a build that is killed here is seen as finished."""
    for path in work.path.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != PLAN:
            path.unlink()
    shutil.rmtree(work.path)


def _unpack(
    files: list[Input], options: BuildOptions, execution: Execution, run: RunTasks, work: WorkFolder
) -> None:
    todo = [
        UnpackTask(number, file, options, execution.shard_bytes, work)
        for number, file in enumerate(files)
        if options.source != "hf" and is_packed(file) and not work.is_finished(number, UNPACKED)
    ]
    for done, _ in enumerate(run(unpack, todo), start=1):
        execution.report("unpack", done, len(todo))


def _clean(
    shards: list[Shard],
    tokenizer: Tokenizer,
    options: BuildOptions,
    run: RunTasks,
    report: StageReport,
    work: WorkFolder,
) -> None:
    todo = [
        CleanTask(shard, options, has_sentences(tokenizer), work)
        for shard in sorted(shards, key=lambda shard: shard.start - shard.end)  # the largest first
        if not work.is_finished(shard.number, CLEAN)
    ]
    done = len(shards) - len(todo)
    report("clean", done, len(shards))
    for _ in run(clean_shard, todo):
        done += 1
        report("clean", done, len(shards))


def _deduplicate(shards: list[Shard], options: BuildOptions, report: StageReport, work: WorkFolder) -> None:
    deduplicator = Deduplicator(shards, options, work)
    deduplicator.deduplicate(report)
    dropped = deduplicator.dropped()
    try:
        bound = validation_bound(deduplicator.kept_digests(), options.validation_fraction)
    except ValueError:
        raise _abandon(too_few_documents(shards, dropped, options, work), work) from None
    summary = {"dropped": dropped, "defects": deduplicator.write_defects(), "validation_bound": bound}
    write_json(work.path / DEDUPLICATED, summary)


def _abandon(message: str, work: WorkFolder) -> MissingError:
    """Remove the work folder of a build that cannot succeed: the corrected command starts again."""
    shutil.rmtree(work.path)
    return MissingError(message)


def _encode(shards: list[Shard], run: RunTasks, report: StageReport, work: WorkFolder) -> None:
    bound = json.loads((work.path / DEDUPLICATED).read_bytes())["validation_bound"]
    todo = [
        EncodeTask(shard.number, work, work.path / TOKENIZER, bound)
        for shard in sorted(shards, key=lambda shard: shard.start - shard.end)
        if not work.is_finished(shard.number, ENCODED)
    ]
    done = len(shards) - len(todo)
    report("encode", done, len(shards))
    for _ in run(encode_shard, todo):
        done += 1
        report("encode", done, len(shards))
