"""English words by nltk's rules (no download), within runs between white space."""

from functools import cache
from typing import Any


def words(run: str) -> list[str]:
    """The words of a run without white space; they join to `run`.

    nltk's rules split `don't` into `do` and `n't`, and punctuation from words. Seeing one run at a
    time, they part the full stop at every run's end, not only at the text's.
    """
    found: list[str] = []
    position = 0
    for word in _nltk().tokenize(run):
        if word in ("``", "''") and run.startswith('"', position):
            word = '"'  # nltk writes straight quotes as TeX does
        if not run.startswith(word, position):
            break
        found.append(word)
        position += len(word)
    return [*found, run[position:]] if position < len(run) else found


@cache
def _nltk() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
