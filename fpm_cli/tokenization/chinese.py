"""Chinese words as jieba segments them: by rjieba (Rust) where the two agree, else by jieba's own rules.

rjieba does not split runs of letters, digits and signs, as jieba does (`RAID-0` in three): they are split
here. Where else the two may differ (`rjieba_differences`), the block is segmented by `jieba_exact`.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fpm_cli.errors import UsageError
from fpm_cli.tokenization import jieba_exact
from fpm_cli.tokenization.base import check_text
from fpm_cli.tokenization.rjieba_differences import differing_positions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The only words of jieba's dictionary that contain one of `+#&._%-`.
_WORDS_WITH_SIGNS = frozenset(("AT&T", "c#", "C#", "c++", "C++"))
_ASCII_RUN = re.compile(r"[a-zA-Z0-9+#&._%\-]{2,}")
_BLOCK_CHARACTER = re.compile(f"[{jieba_exact.BLOCK_CLASS}]")
SEPARATOR = "\x1e"  # not a character of words to either
_TEXTS_AT_ONCE = 512  # few enough for the processor's cache, many enough for one call of each library

# What rjieba must answer before it is trusted, a bar between words.
_PROBES = (
    "他|来到|了|网易|杭研|大厦",
    "小明|硕士|毕业|于|中国科学院|计算所|后|在|日本京都大学|深造",
    "RAID|-|0|的|re|-|installation|见|12.1|.|1|节|C++|和|AT&T|占|50.5%",
    "卡拉|OK|、|T恤|、|１|２|Simple|-|CDD|乒乓球|拍卖|完|了|…|…",
)


def words(text: str) -> list[str]:
    """The words of `text` in jieba's accurate mode with its hidden Markov model; they join to `text`.

    Raises UsageError on a lone surrogate.
    """
    check_text(text)
    fast = _rjieba()
    if fast is None:
        return jieba_exact.cut(text)
    found: list[str] = []
    for word in _cut(fast, text):
        if len(word) > 1 and word.isascii():
            found += _split_run(word)
        else:
            found.append(word)
    return found


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in groups of the size that is fastest to segment together."""
    for begin in range(0, len(texts), _TEXTS_AT_ONCE):
        yield texts[begin : begin + _TEXTS_AT_ONCE]


def join_words(texts: Sequence[str], space: str, newline: str) -> list[str]:
    """For each text its words with spaces between, its own spaces and newlines as marks.

    In bulk: all texts are cut together. There may be spaces at the ends. Raises UsageError on a lone
    surrogate.
    """
    together = SEPARATOR.join(texts)
    _check(together, texts)
    if together.count(SEPARATOR) >= len(texts):  # a text has the separator itself
        lines = [_join(text.replace(" ", space).replace("\n", newline)) for text in texts]
    else:
        lines = _join(together.replace(" ", space).replace("\n", newline)).split(SEPARATOR)
    return [_ASCII_RUN.sub(_split_match, line) if _has_sign(line) else line for line in lines]


def word_starts(texts: Sequence[str]) -> tuple[str, "NDArray[np.bool_]"] | None:
    """All texts with `SEPARATOR` between, and for each character of that whether a word begins there.

    In bulk: all texts are cut together. The starts within a run of ASCII letters, digits and signs are
    left out. None where a text has the separator itself. Raises UsageError on a lone surrogate.
    """
    import numpy as np

    together = SEPARATOR.join(texts)
    _check(together, texts)
    if together.count(SEPARATOR) >= max(1, len(texts)):
        return None
    fast = _rjieba()
    words = jieba_exact.cut(together) if fast is None else _cut(fast, together)
    ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    starts = np.zeros(len(together), np.bool_)
    starts[:1] = True
    starts[ends[:-1]] = True
    return together, starts


def _check(together: str, texts: Sequence[str]) -> None:
    """`check_text` of all texts at once; the error names the place within its own text."""
    try:
        check_text(together)
    except UsageError:
        for text in texts:
            check_text(text)
        raise


def _join(text: str) -> str:
    fast = _rjieba()
    return " ".join(jieba_exact.cut(text) if fast is None else _cut(fast, text))


def _has_sign(text: str) -> bool:
    """Whether a run may have to be split. Written out, since it is called for every line of a corpus."""
    return (
        "." in text or "-" in text or "%" in text or "_" in text or "+" in text or "&" in text or "#" in text
    )


def _split_match(run: re.Match[str]) -> str:
    return " ".join(_split_run(run[0]))


def _cut(fast: Any, text: str) -> list[str]:
    """rjieba's words, but jieba's own in blocks on which the two may differ."""
    positions = differing_positions(text)
    if not positions:
        whole: list[str] = fast.cut(text)
        return whole
    found: list[str] = []
    done = 0
    for position in positions:
        if position < done:
            continue
        begin, end = _block_around(text, position)
        found += fast.cut(text[done:begin])
        found += jieba_exact.cut(text[begin:end])
        done = end
    found += fast.cut(text[done:])
    return found


def _block_around(text: str, position: int) -> tuple[int, int]:
    """The block, what jieba cuts on its own, that the character belongs to; or the character alone."""
    begin = end = position
    while begin > 0 and _BLOCK_CHARACTER.match(text, begin - 1):
        begin -= 1
    while end < len(text) and _BLOCK_CHARACTER.match(text, end):
        end += 1
    return (begin, end) if _BLOCK_CHARACTER.match(text, position) else (position, position + 1)


def _split_run(run: str) -> list[str]:
    """A run that rjieba does not split, as jieba splits it."""
    if run.isalnum() or run in _WORDS_WITH_SIGNS:
        return [run]
    return jieba_exact.split_alphanumeric(run)


@cache
def _rjieba() -> Any:
    """rjieba if it is installed and answers the probes as jieba does, else None."""
    try:
        from rjieba import Jieba
    except ImportError:
        return None
    fast = Jieba()
    for probe in _PROBES:
        segmented = " ".join(fast.cut(probe.replace("|", "")))
        if _ASCII_RUN.sub(_split_match, segmented) != probe.replace("|", " "):
            return None
    return fast
