"""In which encoding the bytes of a text are: UTF-8, or the likely other one."""

import codecs
import unicodedata
from collections import Counter
from pathlib import Path

from fpm_cli.errors import UsageError, did_you_mean
from fpm_cli.streams import open_input

UTF8, UNKNOWN = "utf-8", ""
SAMPLE_BYTES = 1 << 18
# Some broken bytes, or some broken lines of many, do not make a file of another encoding.
_MIN_INVALID_BYTES, _MIN_INVALID_LINES = 4, 0.1  # the second: of the bytes, those in lines that are not UTF-8
_NO_TEXT = {"Cc", "Cn", "Co", "Cs"}  # of Unicode's general categories
_MAX_STRANGE = 0.02  # of characters; noise that is read as UTF-16 has a tenth of them
_MAX_CHARACTER_BYTES = 4  # so many bytes at the sample's end may be a part of a character
_NUM_SLICES = 8
_COMMON = ("gb18030", "gbk", "big5", "utf-16", "utf-16-le", "shift_jis", "euc_kr", "latin-1", "auto")


def detect_encoding(sample: bytes) -> str:
    """The encoding of a text that begins with `sample`: `utf-8`, a codec's name, or `UNKNOWN`.

    A text is UTF-8 if most of its non-ASCII bytes are, so that one with some broken bytes is.
    """
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-32" if sample.startswith(codecs.BOM_UTF32_LE) else "utf-16"
    if encoding := _utf16_by_zeros(sample):
        return encoding
    return UTF8 if _is_mostly_utf8(sample) else _likely_encoding(sample)


def _is_mostly_utf8(sample: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    text = decoder.decode(sample)
    num_cut = len(decoder.getstate()[0])  # bytes of a character that the sample cuts
    num_invalid = len(sample) - num_cut - len(text.encode())
    num_valid = len(text) - len(text.encode("ascii", "ignore"))  # non-ASCII characters
    if num_invalid <= max(num_valid, _MIN_INVALID_BYTES):
        return True
    broken = sum(len(line) for line in sample.split(b"\n") if not _is_utf8(line))
    return broken <= _MIN_INVALID_LINES * len(sample)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _likely_encoding(sample: bytes) -> str:
    """What charset-normalizer finds, going by the letters and words that each encoding gives.

    It takes no encoding in which a byte is invalid: the sample may end within a character, and where
    it has broken bytes elsewhere, slices of it are asked.
    """
    ends = range(len(sample), max(len(sample) - _MAX_CHARACTER_BYTES, 0), -1)
    if found := next(filter(None, (_normalizer_encoding(sample[:end]) for end in ends)), None):
        return found
    lines = sample.split(b"\n")
    step = max(1, len(lines) // _NUM_SLICES)
    slices = (b"\n".join(lines[begin : begin + step]) for begin in range(0, len(lines), step))
    votes = Counter(filter(None, map(_normalizer_encoding, slices)))
    chosen = votes.most_common(1)[0][0] if votes else UNKNOWN
    return chosen if chosen and _is_text(sample.decode(chosen, "ignore")) else UNKNOWN


def _normalizer_encoding(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    if best is None or best.encoding in ("ascii", "utf_8"):
        return None
    return best.encoding.replace("_", "-") if _is_text(sample.decode(best.encoding, "ignore")) else None


def _is_text(text: str) -> bool:
    """Whether hardly any character is a control code, unassigned or for private use, as in decoded noise."""
    num_strange = sum(unicodedata.category(c) in _NO_TEXT and c not in "\t\n\r\f" for c in text)
    return num_strange <= _MAX_STRANGE * len(text)


def file_encoding(path: Path, max_expansion: int | None = None) -> str:
    """`detect_encoding` of the first bytes of a plain or compressed file."""
    with open_input(path, max_expansion) as stream:
        return detect_encoding(stream.read(SAMPLE_BYTES))


def check_encoding(name: str) -> str:
    """The name of a text encoding that Python knows, or `auto`; UsageError for any other."""
    try:
        if name != "auto":
            "".encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise UsageError(f"--encoding {name}: no such encoding{did_you_mean(name, _COMMON)}") from None
    return name


def _utf16_by_zeros(sample: bytes) -> str | None:
    """UTF-16 without a byte order mark, where most characters are ASCII: every other byte is zero."""
    even, odd = sample[0::2], sample[1::2]
    if not odd:
        return None
    zeros_even, zeros_odd = even.count(0) / len(even), odd.count(0) / len(odd)
    if zeros_odd > 0.4 and zeros_even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if zeros_even > 0.4 and zeros_odd < 0.05 else None
