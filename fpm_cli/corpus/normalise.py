"""Makes text clean without changing what it says: line ends, control characters, composed Unicode."""

import re
import unicodedata
from collections import Counter

NUL, SURROGATE, REPLACEMENT, CONTROL = "nul", "lone_surrogate", "invalid_utf8", "control_character"

# Everything that no tokenizer should see. U+FFFD stands for bytes that were not valid UTF-8.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffd\ufffe\uffff]")
_LINE_END = re.compile("\r\n?|\x85|\u2028|\u2029")
_TRAILING = re.compile("[ \t\u3000]+\n")
_BLANK_LINES = re.compile("\n{3,}")


def normalise(text: str) -> tuple[str, Counter[str]]:
    """Return the clean text, and how many characters of each broken kind were removed.

    Line ends become `\\n`, Unicode is composed (NFC), trailing blanks and longer runs of empty lines
    go, and so do control characters, NUL, lone surrogates and U+FFFD; the byte order mark goes uncounted.
    """
    removed: Counter[str] = Counter()

    def remove(match: re.Match[str]) -> str:
        if kind := _kind(match[0]):
            removed[kind] += 1
        return ""

    text = _LINE_END.sub("\n", text)
    text = _UNWANTED.sub(remove, text)
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return _BLANK_LINES.sub("\n\n", _TRAILING.sub("\n", text)).strip(), removed


def _kind(character: str) -> str | None:
    if character == "\ufeff":
        return None
    if character == "\0":
        return NUL
    if "\ud800" <= character <= "\udfff":
        return SURROGATE
    return REPLACEMENT if character == "\ufffd" else CONTROL
