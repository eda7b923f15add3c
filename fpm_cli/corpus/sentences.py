"""Splits text into sentences by rule, Chinese and English alike; a line end always ends a sentence."""

import re

# A Chinese terminator (run) with the closing quotes and brackets after it.
_CHINESE_END = "[。！？…；]+[”’」』）》】\"']*"
# An English one, with what closes after it, before blanks and what may open the next sentence.
_ENGLISH_END = "[.!?]+[\"'”’)\\]]*(?=[ \t\u3000]+[\"'“‘(\\[]*[A-Z0-9\u4e00-\u9fff])"
_END = re.compile(f"{_CHINESE_END}|{_ENGLISH_END}")
# After these a full stop ends no sentence; a single capital is an initial.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Prof|Rev|Hon|Gen|Col|Capt|Lt|Sgt|Maj|Jr|Sr|Messrs|Mme|Mlle|Esq"
    r"|vs|etc|cf|No|Nos|Vol|vol|Fig|fig|p|pp|viz|e\.g|i\.e|a\.m|p\.m|U\.S|U\.K|Inc|Ltd|Co|Corp)\.$"
)
_LOOK_BACK = 12  # characters; longer than any abbreviation above


def split_sentences(text: str) -> list[str]:
    """Return the sentences of `text` in order, stripped, none empty; nothing but blanks is lost."""
    sentences: list[str] = []
    for line in text.split("\n"):
        start = 0
        for match in _END.finditer(line):
            if match[0] == "." and _ABBREVIATION.search(
                line, max(start, match.end() - _LOOK_BACK), match.end()
            ):
                continue
            _append(sentences, line[start : match.end()])
            start = match.end()
        _append(sentences, line[start:])
    return sentences


def _append(sentences: list[str], sentence: str) -> None:
    if sentence := sentence.strip():
        sentences.append(sentence)
