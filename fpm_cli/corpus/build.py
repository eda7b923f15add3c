"""Builds a corpus: read -> normalise -> filter -> drop duplicates -> sentences -> tokenise -> write."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import xxhash

from fpm_cli.corpus.corpus import MANIFEST, TOKENIZER, Corpus
from fpm_cli.corpus.files import atomic_write, checksum
from fpm_cli.corpus.indexed import IndexedWriter
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
from fpm_cli.corpus.normalise import normalise
from fpm_cli.corpus.reading import READERS, ReadOptions, find_inputs, open_stream
from fpm_cli.corpus.sentences import split_sentences
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.tokenization.base import Tokenizer

BATCH_DOCUMENTS = 256


@dataclass(frozen=True)
class BuildOptions:
    """Every choice that decides the bytes of a corpus, beside its inputs and tokenizer."""

    source: str
    validation_fraction: float = 0.01
    min_characters: int = 1
    reading: ReadOptions = field(default_factory=ReadOptions)


@dataclass(frozen=True)
class Built:
    """The finished corpus, and how long it took to make."""

    corpus: Corpus
    seconds: float


@dataclass
class _Tally:
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Document:
    text: str
    sequences: list[str]
    digest: int


def build_corpus(inputs: list[Path], tokenizer: Tokenizer, out: Path, options: BuildOptions) -> Built:
    """Build the corpus in the folder `out`, which must not exist yet; it appears there when complete.

    Raises UsageError (`out` exists, no tokens for a document's end), MissingError (an input is absent,
    or nothing is left of them).
    """
    started = time.perf_counter()
    if out.exists():
        raise UsageError(f"{out} exists; a corpus is never overwritten: name another --out or remove it")
    files = find_inputs(inputs, options.source)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.with_name(f".{out.name}.building")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        tokenizer.save(work / TOKENIZER)
        tally = _Tally()
        documents = list(_documents(files, tokenizer, options, tally))
        splits = _write(documents, tokenizer, work, options, tally)
        _manifest(files, tokenizer, options, tally, splits, work).write(work / MANIFEST)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Built(Corpus.open(out), time.perf_counter() - started)


def _documents(
    files: list[tuple[str, Path]], tokenizer: Tokenizer, options: BuildOptions, tally: _Tally
) -> Iterator[_Document]:
    seen: set[bytes] = set()
    for _, path in files:
        with open_stream(path) as stream:
            for record in READERS[options.source](stream, options.reading):
                tally.read += 1
                document = _prepare(record.text, record.defect, tokenizer, options, tally, seen)
                if isinstance(document, _Document):
                    yield document
                else:
                    tally.dropped[document] += 1


def _prepare(
    raw: str | None,
    defect: str | None,
    tokenizer: Tokenizer,
    options: BuildOptions,
    tally: _Tally,
    seen: set[bytes],
) -> _Document | str:
    """Return the clean document, or the reason to drop it."""
    if raw is None:
        return defect or "unreadable"
    text, removed = normalise(raw)
    tally.repaired.update(removed.keys())
    if not text:
        return "empty"
    if len(text) < options.min_characters:
        return "too_short"
    digest = xxhash.xxh3_128_digest(text.encode())
    if digest in seen:
        return "exact_duplicate"
    seen.add(digest)
    sequences = [text]
    if has_sentences(tokenizer):
        sequences = split_sentences(text)
        if len(sequences) < 2:
            return "fewer_than_two_sentences"
    return _Document(text, sequences, int.from_bytes(digest[:8], "big"))


def has_sentences(tokenizer: Tokenizer) -> bool:
    """BERT corpora keep sentences and whole words; the others keep documents."""
    return tokenizer.kind.startswith("bert")


def _validation_bound(digests: list[int], fraction: float) -> int:
    """Digests below the bound go to validation: the asked fraction, but never none and never all."""
    if fraction == 0:
        return 0
    ordered = sorted(digests)
    if len(ordered) < 2:
        raise MissingError(f"{len(ordered)} documents are left: two splits need at least two")
    return min(max(int(fraction * 2**64), ordered[0] + 1), ordered[-1])


def _write(
    documents: list[_Document], tokenizer: Tokenizer, work: Path, options: BuildOptions, tally: _Tally
) -> dict[Split, SplitFacts]:
    bound = _validation_bound([document.digest for document in documents], options.validation_fraction)
    facts: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(IndexedWriter(work / split, tokenizer.vocab_size)) for split in SPLITS
        }
        words = (
            {split: stack.enter_context(atomic_write(work / f"{split}.words.bin")) for split in SPLITS}
            if has_sentences(tokenizer)
            else {}
        )
        stream = iter(documents)
        while batch := list(islice(stream, BATCH_DOCUMENTS)):
            for document, ids in zip(batch, _encode(batch, tokenizer), strict=True):
                split: Split = "validation" if document.digest < bound else "train"
                writers[split].add_document(ids)
                for sentence in document.sequences if words else ():
                    words[split].write(np.asarray(tokenizer.word_starts(sentence), dtype=np.uint8).tobytes())
                tally.kept += 1
                facts[split]["documents"] += 1
                facts[split]["sequences"] += len(ids)
                facts[split]["tokens"] += sum(map(len, ids))
                facts[split]["text_bytes"] += len(document.text.encode())
                facts[split]["text_characters"] += len(document.text)
    names = tuple(SplitFacts.model_fields)
    return {split: SplitFacts(**{name: facts[split][name] for name in names}) for split in SPLITS}


def _encode(batch: list[_Document], tokenizer: Tokenizer) -> list[list[list[int]]]:
    """The token ids of each sequence of each document; outside BERT a document ends in <eod>."""
    ids = iter(tokenizer.encode_batch([text for document in batch for text in document.sequences]))
    encoded = [list(islice(ids, len(document.sequences))) for document in batch]
    if has_sentences(tokenizer):
        return encoded
    if tokenizer.special.eod is None:
        raise UsageError(f"tokenizer {tokenizer.kind} has no <eod> token to end a document with")
    return [[[*sequence, tokenizer.special.eod] for sequence in document] for document in encoded]


def _manifest(
    files: list[tuple[str, Path]],
    tokenizer: Tokenizer,
    options: BuildOptions,
    tally: _Tally,
    splits: dict[Split, SplitFacts],
    work: Path,
) -> Manifest:
    inputs = tuple(
        InputFile(name=name, bytes=path.stat().st_size, xxh3_128=checksum(path)) for name, path in files
    )
    written = sorted(path for path in work.rglob("*") if path.is_file())
    return Manifest(
        source=options.source,
        inputs=inputs,
        options={key: value for key, value in asdict(options).items() if key != "source"},
        tokenizer=TokenizerFacts(
            kind=tokenizer.kind, vocab_size=tokenizer.vocab_size, fingerprint=tokenizer.fingerprint
        ),
        counts=Counts(
            documents_read=tally.read,
            documents_kept=tally.kept,
            dropped=dict(sorted(tally.dropped.items())),
            repaired=dict(sorted(tally.repaired.items())),
            bytes_in=sum(file.bytes for file in inputs),
        ),
        splits=splits,
        files={
            path.relative_to(work).as_posix(): FileFacts(bytes=path.stat().st_size, xxh3_128=checksum(path))
            for path in written
        },
    ).sealed()
