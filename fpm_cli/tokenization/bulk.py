"""Encodes many lines in batches, on several processes, in order, in bounded memory."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from fpm_cli.config.schema import TokenizerKind
from fpm_cli.errors import FpmError, UsageError
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.long_texts import MAX_CHARACTERS
from fpm_cli.tokenization.published import load_published
from fpm_cli.tokenization.registry import load_tokenizer

_BATCH_CHARACTERS = 1 << 18
_WAITING_PER_WORKER = 3  # batches
_PIECE_IDS = 1 << 18


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer comes from, so that each worker process can load its own."""

    path: Path
    published: TokenizerKind | None = None

    def load(self) -> Tokenizer:
        """Load it, from our directory or from published files."""
        return load_published(self.published, self.path) if self.published else load_tokenizer(self.path)


def encode_lines(source: TokenizerSource, lines: Iterable[str], as_json: bool, workers: int) -> Iterator[str]:
    """Each line's ids as text, in order: numbers separated by spaces, or `{"ids": ..., "tokens": ...}`.

    Yields the output lines of a batch at a time, and a very long one in pieces.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}: at least 1")
    tokenizer = source.load()  # with workers too: what is wrong with it is reported here, once
    if workers == 1:
        for batch in make_batches(lines):
            yield from _format_batch(tokenizer, batch, as_json)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit the libraries' threads
    with ProcessPoolExecutor(workers, context, initializer=_initialize_worker, initargs=(source,)) as pool:
        waiting: deque[Future[str]] = deque()
        try:
            for batch in make_batches(lines):
                if len(batch[0]) > MAX_CHARACTERS:  # alone in its batch, and too large to send around
                    while waiting:
                        yield waiting.popleft().result()
                    yield from _format_batch(tokenizer, batch, as_json)
                    continue
                waiting.append(pool.submit(_encode_in_worker, batch, as_json))
                if len(waiting) > workers * _WAITING_PER_WORKER:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise FpmError("a worker process died, perhaps for lack of memory; try fewer --workers") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _format_batch(tokenizer: Tokenizer, batch: list[str], as_json: bool) -> Iterator[str]:
    if len(batch[0]) > MAX_CHARACTERS:
        return _format_long(tokenizer, batch[0], as_json)
    return iter([format_ids(tokenizer, batch, as_json)])


def format_ids(tokenizer: Tokenizer, texts: list[str], as_json: bool) -> str:
    """A line of ids for each text."""
    encoded = tokenizer.encode_batch(texts)
    if not as_json:
        return "".join(" ".join(map(str, ids)) + "\n" for ids in encoded)
    import orjson

    return "".join(
        orjson.dumps({"ids": ids, "tokens": tokenizer.tokens(ids)}).decode() + "\n" for ids in encoded
    )


def _format_long(tokenizer: Tokenizer, text: str, as_json: bool) -> Iterator[str]:
    """What `format_ids` gives for one text, in pieces: Python's integers take ten times an array's memory."""
    ids = tokenizer.encode_ragged([text]).ids
    pieces = [ids[begin : begin + _PIECE_IDS] for begin in range(0, len(ids), _PIECE_IDS)]
    if not as_json:
        for number, piece in enumerate(pieces):
            yield (" " if number else "") + " ".join(map(str, piece.tolist()))
        yield "\n"
        return
    import orjson

    yield '{"ids":['
    for number, piece in enumerate(pieces):
        yield ("," if number else "") + ",".join(map(str, piece.tolist()))
    yield '],"tokens":['
    for number, piece in enumerate(pieces):
        yield ("," if number else "") + orjson.dumps(tokenizer.tokens(piece.tolist())).decode()[1:-1]
    yield "]}\n"


def make_batches(lines: Iterable[str]) -> Iterator[list[str]]:
    """The lines in lists of at least 262,144 characters; one of more than 1,048,576 is a list by itself."""
    batch: list[str] = []
    size = 0
    for line in lines:
        if len(line) > MAX_CHARACTERS and batch:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 1
        if size >= _BATCH_CHARACTERS or len(line) > MAX_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_worker_tokenizer: Tokenizer


def _initialize_worker(source: TokenizerSource) -> None:
    global _worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _worker_tokenizer = source.load()


def _encode_in_worker(batch: list[str], as_json: bool) -> str:
    return format_ids(_worker_tokenizer, batch, as_json)
