"""Faster libraries for bulk encoding, used only where they give the ids of the reference library.

gigatoken (byte-level BPE) and nanotoken (WordPiece) are new. Each is optional (`pip install
'fpm-depth[fast]'`), and is asked the probes below before its first use: a different id, or an exception,
and the reference library (Hugging Face tokenizers) does the work, only more slowly.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Ragged(NamedTuple):
    """Ids of many texts, concatenated: text i has `ids[ends[i - 1]:ends[i]]`, the first from 0."""

    ids: "NDArray[np.int32]"  # (total tokens,)
    ends: "NDArray[np.int64]"  # (texts,)


class Accelerator(Protocol):
    """Encodes texts in bulk on the calling thread."""

    def __call__(self, texts: Sequence[str], /) -> Ragged:
        """Ids of the texts, none special."""


PROBES = (
    "",
    " ",
    "Hello, world! It's 3.14 o'clock; they'll, we've DON'T\tre-enter\r\n\n  twice.  ",
    "<|endoftext|> [CLS] [MASK][SEP] <eod> [UNK]##ing",
    "naïve Café ÅNGSTRÖM ﬁne İstanbul ΣΊΣΥΦΟΣ straße e\u0301",
    "世界，你好！繁體中文 日本語テキスト 한국어 x中y文z",
    "👩‍👩‍👧 🇨🇳 \u00ad\u200b\u2028 \x00\x07\ufffd \u3000全角ＡＢＣ１２３ 𠀀\U000e0001",
    "supercalifragilisticexpialidocious " + "x" * 120 + " !!!...???---___ $1,234.56 a_b/c",
)


def load_if_exact(
    make: Callable[[], Accelerator], reference: Callable[[str], list[int]]
) -> Accelerator | None:
    """The accelerator that `make` gives, or None if it is not installed or fails a probe."""
    try:
        accelerator = make()
        answers = to_lists(accelerator(PROBES))
    except Exception:  # whatever a new library raises, the reference library is used
        return None
    return accelerator if answers == [reference(probe) for probe in PROBES] else None


def make_gigatoken(tokenizer_json: str) -> Accelerator:
    """Byte-level BPE by gigatoken, from a Hugging Face tokenizer.json."""
    import gigatoken
    import numpy as np

    backend = gigatoken.Tokenizer.from_json(tokenizer_json).backend

    def encode(texts: Sequence[str]) -> Ragged:
        layout = backend.encode_batch(list(texts), parallel=False).layout
        offsets = np.asarray(layout.offsets.data, np.int64)
        ids = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
        return Ragged(ids.astype(np.int32, copy=False), offsets[1:] - offsets[0])

    return encode


def make_nanotoken(tokenizer_json: str) -> Accelerator:
    """WordPiece by nanotoken, from a Hugging Face tokenizer.json."""
    import nanotoken
    import numpy as np

    tokenizer = nanotoken.Tokenizer.from_json(tokenizer_json)

    def encode(texts: Sequence[str]) -> Ragged:
        ragged = tokenizer.encode_batch(list(texts), add_special_tokens=False, parallel=False)
        return Ragged(np.asarray(ragged.ids).astype(np.int32, copy=False), np.asarray(ragged.offsets)[1:])

    return encode


def to_lists(ragged: Ragged) -> list[list[int]]:
    """The ids of each text as Python integers."""
    ids = ragged.ids.tolist()
    begin, lists = 0, []
    for end in ragged.ends.tolist():
        lists.append(ids[begin:end])
        begin = end
    return lists
