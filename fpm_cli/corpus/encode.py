"""Second half of the pipeline, one shard at a time: kept documents -> token ids of each split, on disk."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.indexed import token_dtype
from fpm_cli.corpus.manifest import SPLITS, Split
from fpm_cli.corpus.work_folder import WorkFolder
from fpm_cli.errors import UsageError
from fpm_cli.files import atomic_write
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.lost_text import LostTextCounter
from fpm_cli.tokenization.registry import load_tokenizer

ENCODED = "encoded"
# The files of a shard for each split: ids, tokens per sequence, sequences per document.
FILE_KINDS = ("bin", "sizes", "lengths")
WORDS = "words.bin"  # bert only: one byte per token, 1 where a whole word begins
BATCH_BYTES = 1 << 18  # text encoded at once: enough for a library's own batching, little memory
NO_TOKENS = "no_tokens"


@dataclass(frozen=True)
class EncodeTask:
    """A cleaned shard to encode; documents whose digest is below the bound go to validation."""

    number: int
    work: WorkFolder
    tokenizer: Path
    validation_bound: int


@dataclass(frozen=True, slots=True)
class _Document:
    text: str
    text_bytes: int
    split: Split


@dataclass
class _Facts:
    documents: int = 0
    sequences: int = 0
    tokens: int = 0
    text_bytes: int = 0
    text_characters: int = 0
    lost: LostTextCounter | None = None

    def add(self, documents: list[_Document], sizes: npt.NDArray[np.int64]) -> None:
        """Count documents and their sequences, whose sizes in tokens are given."""
        self.documents += len(documents)
        self.sequences += len(sizes)
        self.tokens += int(sizes.sum())
        self.text_bytes += sum(document.text_bytes for document in documents)
        self.text_characters += sum(len(document.text) for document in documents)

    def add_lost(self, documents: list[_Document], tokenizer: Tokenizer) -> None:
        """Measure what the tokens of documents do not determine."""
        self.lost = self.lost or LostTextCounter()
        for document in documents:
            self.lost.add(tokenizer, document.text)

    def document(self) -> dict[str, Any]:
        """The counts as JSON-ready values."""
        return {**vars(self), "lost": self.lost.document() if self.lost else None}


@dataclass
class _SplitFiles:
    """The open files of one split, and what went into them."""

    files: dict[str, BinaryIO]
    facts: _Facts = field(default_factory=_Facts)

    def write(self, kind: str, values: npt.NDArray[Any]) -> None:
        """Append an array to one of the files."""
        self.files[kind].write(values.tobytes())


def has_sentences(tokenizer: Tokenizer) -> bool:
    """BERT corpora hold sentences and whole words; the others hold documents."""
    return tokenizer.kind.startswith("bert")


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Raise UsageError if the tokenizer has no token to end a document with."""
    if not has_sentences(tokenizer) and tokenizer.special.eod is None:
        raise UsageError(f"tokenizer {tokenizer.kind} has no <eod> token to end a document with")


def encode_shard(task: EncodeTask) -> None:
    """Encode one shard; its files are on disk when its summary is."""
    tokenizer = _tokenizer(task.tokenizer)
    kinds = (*FILE_KINDS, WORDS) if has_sentences(tokenizer) else FILE_KINDS
    dropped = 0
    with ExitStack() as stack:
        splits = {split: _SplitFiles(_open(stack, task, split, kinds)) for split in SPLITS}
        for batch in _batches(_documents(task)):
            dropped += _encode(batch, tokenizer, splits)
    task.work.finish(
        task.number,
        ENCODED,
        {
            "dropped": {NO_TOKENS: dropped} if dropped else {},
            "splits": {split: files.facts.document() for split, files in splits.items()},
        },
    )
    task.work.file(task.number, "text").unlink(missing_ok=True)  # the largest file; no later stage reads it


def _open(stack: ExitStack, task: EncodeTask, split: Split, kinds: tuple[str, ...]) -> dict[str, BinaryIO]:
    paths = {kind: task.work.file(task.number, f"{split}.{kind}") for kind in kinds}
    return {kind: stack.enter_context(atomic_write(path, sync_name=False)) for kind, path in paths.items()}


@lru_cache(maxsize=1)
def _tokenizer(directory: Path) -> Tokenizer:
    return load_tokenizer(directory)


def _documents(task: EncodeTask) -> Iterator[_Document]:
    drops = np.fromfile(task.work.file(task.number, "drops"), np.uint8)
    first = 0
    with task.work.file(task.number, "text").open("rb", BATCH_BYTES) as text:
        for records in task.work.records(task.number):
            kept = records[drops[first : first + len(records)] == 0]
            held_out = kept["digest_high"] < np.uint64(task.validation_bound)
            columns = (kept["text_start"].tolist(), kept["text_bytes"].tolist(), held_out.tolist())
            for start, size, is_held_out in zip(*columns, strict=True):
                if start != text.tell():
                    text.seek(start)
                yield _Document(text.read(size).decode(), size, "validation" if is_held_out else "train")
            first += len(records)


def _batches(documents: Iterator[_Document]) -> Iterator[list[_Document]]:
    batch: list[_Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.text_bytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(batch: list[_Document], tokenizer: Tokenizer, splits: dict[Split, _SplitFiles]) -> int:
    """Write a batch; return how many documents had too few tokens to keep."""
    sentences = has_sentences(tokenizer)
    texts = [document.text.split("\n") if sentences else [document.text] for document in batch]
    flat = [text for sequences in texts for text in sequences]
    encoded = tokenizer.encode_ragged(flat)
    ids, ends = encoded
    sizes = np.diff(ends, prepend=0)  # (sequences,), tokens
    is_sequence = sizes > 0
    document_of = np.repeat(np.arange(len(batch)), [len(sequences) for sequences in texts])
    num_sequences = np.bincount(document_of[is_sequence], minlength=len(batch))
    is_kept = num_sequences >= (2 if sentences else 1)
    starts = None
    if sentences:
        starts = tokenizer.word_starts_ragged(flat, encoded).view(np.uint8)
    else:
        assert tokenizer.special.eod is not None  # checked by `check_tokenizer`
        ids, sizes = np.insert(ids, ends, tokenizer.special.eod), sizes + 1
    for split, files in splits.items():
        of_split = is_kept & [document.split == split for document in batch]
        chosen = is_sequence & of_split[document_of]
        tokens = np.repeat(chosen, sizes)
        files.write("bin", ids[tokens].astype(token_dtype(tokenizer.vocab_size)))
        files.write("sizes", sizes[chosen].astype(np.int32))
        files.write("lengths", num_sequences[of_split].astype(np.int32))
        if starts is not None:
            files.write(WORDS, starts[tokens])
        documents = [batch[index] for index in np.flatnonzero(of_split)]
        files.facts.add(documents, sizes[chosen])
        if split == "validation":  # what a language model is scored on
            files.facts.add_lost(documents, tokenizer)
    return int((~is_kept).sum())
