"""jieba's accurate mode, exactly, over its own dictionary and tables, in time linear in the text.

The algorithm is fxsjy/jieba 0.42.1's (`Tokenizer.cut`, `finalseg.cut`): the most probable path
through the dictionary, then a hidden Markov model over what the dictionary leaves in single
characters. jieba itself needs quadratic time there, so that one long line of rare characters stalls
it, and loads a marshalled cache from a shared temporary folder; here only its data is taken.
Ties are broken as it breaks them.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import log
from typing import Any

BLOCK_CLASS = "\u4e00-\u9fd5a-zA-Z0-9+#&._%\\-"
_BLOCK = re.compile(f"([{BLOCK_CLASS}]+)")
_OUTSIDE = re.compile(r"\r\n|.", re.DOTALL)  # every character a word, but a line end is one
_HAN = re.compile("([\u4e00-\u9fd5]+)")
ALPHANUMERIC = re.compile(r"([a-zA-Z0-9]+(?:\.\d+)?%?)")

_NEVER = -3.14e100  # jieba's logarithm of zero
_BEFORE = {"B": ("E", "S"), "M": ("M", "B"), "E": ("B", "M"), "S": ("S", "E")}


@dataclass(frozen=True)
class Dictionary:
    """Frequencies of words, 0 for what only begins one, and the logarithm of their sum."""

    frequency: dict[str, int]
    log_total: float


@dataclass(frozen=True)
class MarkovModel:
    """Log probabilities of the states B, M, E, S: of the first, of the next, of a character."""

    start: dict[str, float]
    transition: dict[str, dict[str, float]]
    emission: dict[str, dict[str, float]]


@cache
def dictionary() -> Dictionary:
    """jieba's 350,000 words; read in about a second, once per process."""
    tokenizer = _jieba().Tokenizer()
    frequency, total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    return Dictionary(frequency, log(total))


@cache
def markov_model() -> MarkovModel:
    """jieba's tables for words that its dictionary does not have."""
    tables = _jieba().finalseg
    return MarkovModel(tables.start_P, tables.trans_P, tables.emit_P)


@cache
def _jieba() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its regular expressions are not raw strings
        import jieba
    return jieba


def cut(text: str) -> list[str]:
    """The words of `text`; they join to `text`."""
    words: list[str] = []
    for index, block in enumerate(_BLOCK.split(text)):
        words += _cut_block(block) if index % 2 else _OUTSIDE.findall(block)
    return words


def split_alphanumeric(run: str) -> list[str]:
    """How jieba parts a run of letters, digits and `+#&._%-` that is no word of its dictionary."""
    return [part for part in ALPHANUMERIC.split(run) if part]


def _cut_block(block: str) -> Iterator[str]:
    frequency = dictionary().frequency
    ends = _best_path(block)
    position = singles = 0  # singles: where the pending run of single characters begins
    while position < len(block):
        end = ends[position]
        if end - position > 1:
            yield from _cut_singles(block[singles:position], frequency)
            yield block[position:end]
            singles = end
        position = end
    yield from _cut_singles(block[singles:], frequency)


def _best_path(block: str) -> list[int]:
    """For each position, where the word that begins there ends on the most probable path."""
    frequency, log_total = dictionary().frequency, dictionary().log_total
    size = len(block)
    score, ends = [0.0] * (size + 1), [0] * size
    for begin in range(size - 1, -1, -1):
        best, best_end = None, begin + 1
        for end in range(begin + 1, size + 1):
            count = frequency.get(block[begin:end])
            if count is None:
                break
            if count:
                candidate = log(count) - log_total + score[end]
                if best is None or candidate >= best:
                    best, best_end = candidate, end
        score[begin] = best if best is not None else log(1) - log_total + score[best_end]
        ends[begin] = best_end
    return ends


def _cut_singles(run: str, frequency: dict[str, int]) -> Iterator[str]:
    if len(run) < 2 or frequency.get(run):
        yield from run
        return
    for index, part in enumerate(_HAN.split(run)):
        yield from _cut_unknown(part) if index % 2 else split_alphanumeric(part)


def _cut_unknown(han: str) -> Iterator[str]:
    """Words of characters that the dictionary does not join, by the hidden Markov model."""
    begin = following = 0
    for position, state in enumerate(_states(han)):
        if state == "B":
            begin = position
        elif state == "E":
            yield han[begin : position + 1]
            following = position + 1
        elif state == "S":
            yield han[position]
            following = position + 1
    if following < len(han):
        yield han[following:]


def _states(han: str) -> str:
    """Viterbi's best states: B begins a word, M is inside, E ends one, S is one."""
    model = markov_model()
    score = {y: model.start[y] + model.emission[y].get(han[0], _NEVER) for y in "BMES"}
    back: dict[str, list[str]] = {y: [] for y in "BMES"}
    for character in han[1:]:
        following = {}
        for y in "BMES":
            emitted = model.emission[y].get(character, _NEVER)
            first, second = ((score[x] + model.transition[x].get(y, _NEVER) + emitted, x) for x in _BEFORE[y])
            following[y], before = max(first, second)  # a tie goes to the later letter, as in jieba
            back[y].append(before)
        score = following
    state = max((score["E"], "E"), (score["S"], "S"))[1]
    states = [state]
    for position in range(len(han) - 2, -1, -1):
        state = back[state][position]
        states.append(state)
    return "".join(reversed(states))
