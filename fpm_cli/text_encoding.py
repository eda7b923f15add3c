"""One text encoding for fpm and its child processes: UTF-8, whatever the locale; the locale's on a terminal.

In a locale such as zh_CN.GB18030 Python opens text files in that encoding unless told otherwise, and so do
the libraries that fpm calls: torch cannot even be imported. Python's UTF-8 mode (PEP 540) ends that for the
whole process and for those that it starts. What a terminal shows or reads stays in the locale's encoding, as
do the bytes of file names.
"""

import codecs
import locale
import os
import sys
from pathlib import Path


def ensure_utf8_mode() -> None:
    """Start this process again in UTF-8 mode where its locale has another encoding; then set up terminals."""
    if sys.platform == "win32":
        return
    encoding = _locale_encoding()
    if encoding is None:
        return
    if not sys.flags.utf8_mode:
        environment = {**os.environ, "PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is not None and stream.isatty():
            stream.reconfigure(encoding=encoding, errors="replace")  # type: ignore[union-attr]


def decode_arguments(arguments: list[str]) -> list[str]:
    """Command-line arguments as they were typed in the locale's encoding.

    In UTF-8 mode such bytes arrive as surrogate escapes. An argument that names an existing file keeps them,
    so that it is found; new files get names in UTF-8.
    """
    encoding = _locale_encoding()
    return arguments if encoding is None else [_decode(argument, encoding) for argument in arguments]


def _decode(argument: str, encoding: str) -> str:
    content = os.fsencode(argument)
    if content.isascii() or Path(argument).exists():
        return argument
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return argument


def _locale_encoding() -> str | None:
    """The locale's encoding where that is neither UTF-8 nor ASCII, which is a part of UTF-8."""
    try:
        name = codecs.lookup(locale.getencoding()).name
    except LookupError:  # Python has no such codec, so that it reads nothing in it
        return None
    return None if name in ("utf-8", "ascii") else name
