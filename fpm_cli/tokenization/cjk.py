"""Chinese characters as BERT's basic tokenisation sets them apart, and jieba's words written with spaces."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from fpm_cli.tokenization import chinese

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@cache
def _cjk_table() -> "NDArray[np.bool_]":
    """`is_cjk` of every code point up to the last Chinese one and, as the last entry, of all above."""
    import numpy as np

    return np.array([is_cjk(chr(code)) for code in range(0x2FA21)])


def is_cjk(character: str) -> bool:
    """Whether BERT's basic tokenisation sets the character apart as Chinese.

    The blocks of google-research/bert, tokenization.py, `_is_chinese_char`.
    """
    code = ord(character)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def spaced(text: str) -> str:
    """The text with a space wherever one of jieba's words begins or ends with a Chinese character."""
    parts: list[str] = []
    for word in chinese.words(text):
        if parts and (is_cjk(parts[-1][-1]) or is_cjk(word[0])):
            parts.append(" ")
        parts.append(word)
    return "".join(parts)


def spaced_batch(texts: Sequence[str]) -> list[str]:
    """`spaced` of many texts, which are segmented together."""
    import numpy as np

    segmented = chinese.word_starts(texts) if texts else None
    if segmented is None:
        return [spaced(text) for text in texts]
    together, starts = segmented
    codes = np.frombuffer(together.encode("utf-32-le"), np.uint32)  # (characters,)
    is_cjk_character = are_cjk(codes)
    is_separator = codes == ord(chinese.SEPARATOR)
    beside = starts[1:] & (is_cjk_character[1:] | is_cjk_character[:-1])
    places = np.flatnonzero(beside & ~is_separator[1:] & ~is_separator[:-1]) + 1
    with_spaces = np.insert(codes, places, ord(" ")).tobytes().decode("utf-32-le")
    return with_spaces.split(chinese.SEPARATOR)


def places_in_text(text: str, prepared: str) -> list[int]:
    """For each character of `spaced` text its place in the text; an added space has that of the next."""
    places, place = [], 0
    for character in prepared:
        places.append(place)
        place += place < len(text) and character == text[place]
    return places


def are_cjk(codes: "NDArray[np.uint32]") -> "NDArray[np.bool_]":
    """`is_cjk` of each code point."""
    return _cjk_table().take(codes, mode="clip")  # ten times as fast as indexing
