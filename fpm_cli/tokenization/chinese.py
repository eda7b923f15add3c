"""Chinese words as jieba cuts them: by rjieba (Rust) where the two provably agree, else exactly.

rjieba has jieba's dictionary, model and arithmetic, and differs in three ways, each undone here:
it leaves runs of letters, digits and signs whole (jieba parts `RAID-0` in three); it counts more
characters as Chinese; and it breaks ties of its hidden Markov model the other way, which only shows
for characters that the model has never seen as single words.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from fpm_cli.tokenization import jieba_exact

# The only words of jieba's dictionary that contain one of `+#&._%-` and letters.
_WORDS_WITH_SIGNS = frozenset(("AT&T", "c#", "C#", "c++", "C++"))
_SIGNS = "+#&._%-"
_ASCII_RUN = re.compile(r"[a-zA-Z0-9+#&._%\-]{2,}")
# Chinese to rjieba (messense/jieba-rs, `is_cjk`), each a word of its own to jieba.
_BEYOND = "\u3400-\u4dbf\u9fd6-\u9fff\uf900-\ufaff\U00020000-\U0002ebef\U0002f800-\U0002fa1f"
_SEPARATOR = "\x1e"  # not a character of words to either
_CUT_AT_ONCE = 1 << 14  # characters; more in one call only costs memory

# What rjieba must answer before it is trusted, a bar between words.
_PROBES = (
    "他|来到|了|网易|杭研|大厦",
    "小明|硕士|毕业|于|中国科学院|计算所|后|在|日本京都大学|深造",
    "RAID|-|0|的|re|-|installation|见|12.1|.|1|节|C++|和|AT&T|占|50.5%",
    "卡拉|OK|、|T恤|、|１|２|Simple|-|CDD|乒乓球|拍卖|完|了|…|…",
)


def words(text: str) -> list[str]:
    """The words of `text` in jieba's accurate mode with its hidden Markov model; they join to `text`."""
    fast = _rjieba()
    if fast is None:
        return jieba_exact.cut(text)
    found: list[str] = []
    for word in _cut(fast, text):
        if len(word) > 1 and word.isascii():
            found += _part(word).split(" ")
        else:
            found.append(word)
    return found


def join_words(texts: Sequence[str]) -> list[str]:
    """For each text its words with a space between; the texts themselves must have no space.

    In bulk: texts are cut several at a time, and no word becomes a Python object of its own.
    """
    fast = _rjieba()
    if fast is None:
        return [" ".join(jieba_exact.cut(text)) for text in texts]
    joined: list[str] = []
    for group in _groups(texts):
        line = " ".join(_cut(fast, _SEPARATOR.join(group)))
        joined += [part.strip(" ") for part in line.split(_SEPARATOR)] if len(group) > 1 else [line]
    return [
        _ASCII_RUN.sub(lambda run: _part(run[0]), line) if any(sign in line for sign in _SIGNS) else line
        for line in joined
    ]


def _groups(texts: Sequence[str]) -> list[list[str]]:
    """Texts to cut in one call; one that contains the separator, or is long, goes alone."""
    groups: list[list[str]] = []
    room = 0
    for text in texts:
        alone = _SEPARATOR in text
        if not groups or alone or room <= len(text):
            groups.append([])
            room = _CUT_AT_ONCE
        groups[-1].append(text)
        room = 0 if alone else room - len(text)
    return groups


def _cut(fast: Any, text: str) -> list[str]:
    """rjieba's words, jieba's own where a block has a character on which they part."""
    if _unshared().search(text) is None:
        return list(fast.cut(text))
    found: list[str] = []
    for index, part in enumerate(_unshared_block().split(text)):
        found += jieba_exact.cut(part) if index % 2 else fast.cut(part)
    return found


def _part(run: str) -> str:
    if run.isalnum() or run in _WORDS_WITH_SIGNS:
        return run
    return " ".join(jieba_exact.split_alphanumeric(run))


@cache
def _rjieba() -> Any:
    """rjieba if it is installed and answers the probes as jieba does, else None."""
    try:
        from rjieba import Jieba
    except ImportError:
        return None
    fast = Jieba()
    for probe in _PROBES:
        cut = " ".join(fast.cut(probe.replace("|", "")))
        if _ASCII_RUN.sub(lambda run: _part(run[0]), cut) != probe.replace("|", " "):
            return None
    return fast


@cache
def _unshared() -> re.Pattern[str]:
    """A character on which rjieba and jieba may part."""
    return re.compile(f"[{_BEYOND}{_unseen()}]")


@cache
def _unshared_block() -> re.Pattern[str]:
    """What jieba must cut itself: the whole block around a character that its model has not seen."""
    block, unseen = jieba_exact.BLOCK_CLASS, _unseen()
    seen = "".join(chr(code) for code in range(0x4E00, 0x9FD6) if chr(code) not in unseen)
    return re.compile(
        f"((?<![{block}])[{seen}{block.removeprefix('一-鿕')}]*+[{unseen}][{block}]*|[{_BEYOND}]+)"
    )


@cache
def _unseen() -> str:
    """Chinese characters that the model has never seen as a word of their own.

    Without them every run has a path of ordinary probability, so that the best path meets no tie of
    two impossible ones, which is where rjieba decides otherwise.
    """
    singles = jieba_exact.markov_model().emission["S"]
    return "".join(chr(code) for code in range(0x4E00, 0x9FD6) if chr(code) not in singles)
