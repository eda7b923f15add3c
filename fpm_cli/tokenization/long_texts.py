"""Splits very long texts and words, so that memory and time do not grow with a single line.

Between a letter or digit and a space, a newline or a Chinese punctuation mark, no tokenizer here has a token
that crosses, and neither jieba nor BERT's, GPT-2's or SentencePiece's rules look across: the ids of the
parts, joined, are those of the text. Only where a text has no such place is it cut elsewhere.
"""

import re
from collections.abc import Iterable, Iterator

MAX_CHARACTERS = 1 << 20  # of a text that is encoded at once; a library takes some 300 bytes for each
MAX_TRAINED_WORD = 1000  # characters; trainers of byte-pair merges take quadratic time in a word's length
_SEARCHED = 1 << 14  # characters before the limit in which a place is looked for first
_PLACE = re.compile(r"(?<=[^\W_])(?=[ \n。，！？；])")
_LONG_RUN = re.compile(
    "|".join(f"{kind}{{{MAX_TRAINED_WORD + 1},}}" for kind in (r"[^\W\d_]", r"\d", r"\s", r"(?:[^\w\s]|_)"))
)


def split_long(text: str) -> list[str]:
    """The text in parts of at most `MAX_CHARACTERS`, cut where no token crosses."""
    parts, begin = [], 0
    while len(text) - begin > MAX_CHARACTERS:
        end = _place(text, begin, begin + MAX_CHARACTERS)
        parts.append(text[begin:end])
        begin = end
    return [*parts, text[begin:]]


def split_long_runs(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut within each run of letters, digits, spaces or signs of more than 1,000 characters."""
    for text in texts:
        begin = 0
        for run in _LONG_RUN.finditer(text):
            for cut in range(run.start() + MAX_TRAINED_WORD, run.end(), MAX_TRAINED_WORD):
                yield text[begin:cut]
                begin = cut
        yield text[begin:]


def _place(text: str, begin: int, limit: int) -> int:
    """The last place before `limit` at which the text can be cut, or `limit`."""
    for first in (max(begin + 1, limit - _SEARCHED), begin + 1):
        places = [match.start() for match in _PLACE.finditer(text, first, limit)]
        if places:
            return places[-1]
    return limit
