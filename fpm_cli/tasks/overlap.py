"""How many evaluation rows are in the text that a run was pretrained on, which stands beside its scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.contamination import OverlapSearch
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.errors import FpmError
from fpm_cli.runs.run import Run
from fpm_cli.tasks.examples import Example
from fpm_cli.tokenization.base import Tokenizer

AUTOMATIC_TOKENS = 2_000_000  # a larger corpus is searched only if asked for: half a minute per million


@dataclass(frozen=True)
class Overlap:
    """Which rows are in a corpus: `whole` if every text of the row is, `some` if a part of one text is."""

    corpus: Path
    whole: npt.NDArray[np.bool_]  # (rows,)
    some: npt.NDArray[np.bool_]  # (rows,), True where `whole` is


def find_overlap(run: Run, examples: Sequence[Example], *, any_size: bool) -> Overlap | str | None:
    """Search the training text of the network that a fine-tuned run started from.

    Args:
        run: fine-tuned for a task.
        examples: the rows that it is scored on.
        any_size: also search a corpus of more than AUTOMATIC_TOKENS tokens.

    Returns:
        None for a network that was not pretrained; the reason, where there is no corpus to search.
    """
    task = run.manifest().task
    if task is None or task.from_scratch:
        return None
    try:
        corpus = Corpus.open(Run.open(Path(task.origin.run)).corpus_path())
        if not (any_size or is_searched(corpus)):
            return f"{corpus.path} has more than {AUTOMATIC_TOKENS:,} tokens; --overlap searches it"
        return search_corpus(corpus, [example.texts for example in examples])
    except (FpmError, OSError) as error:
        return str(error).split("\n")[0].split("; ")[0]


def is_searched(corpus: Corpus) -> bool:
    """Whether an evaluation searches a corpus of this size without being asked to."""
    return corpus.manifest.splits["train"].tokens <= AUTOMATIC_TOKENS


def search_corpus(corpus: Corpus, rows: Sequence[Sequence[str]]) -> Overlap:
    """Search the training split for the texts of rows.

    A corpus is what its tokenizer keeps of a text, so the texts are also looked for as it keeps them. What it
    maps to unknown tokens is not found; the network has not read it either.
    """
    tokenizer = corpus.tokenizer
    texts = [text for row in rows for text in row]
    kept = (_decode(tokenizer, ids) for ids in tokenizer.encode_batch(texts))
    search = OverlapSearch(list(zip(texts, kept, strict=True)))
    for document in documents(corpus):
        search.add(document)
    ends = np.cumsum([len(row) for row in rows])
    whole = [bool(found.all()) for found in np.split(search.is_whole, ends[:-1])]
    some = [bool(found.any()) for found in np.split(search.is_found, ends[:-1])]
    return Overlap(corpus.path, np.array(whole, bool), np.array(some, bool))


def documents(corpus: Corpus) -> Iterator[str]:
    """The documents of the training split, a line per sequence."""
    data, tokenizer = corpus.split("train"), corpus.tokenizer
    for first, end in zip(data.document_index[:-1].tolist(), data.document_index[1:].tolist(), strict=True):
        yield "\n".join(_decode(tokenizer, data[index].tolist()) for index in range(first, end))


def _decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of token ids without special tokens other than `<unk>`."""
    left_out = tokenizer.special.ids() - {tokenizer.special.unk}
    return tokenizer.decode(token for token in ids if token not in left_out)
