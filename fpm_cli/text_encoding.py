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

TEXT_OPTIONS = ("--prompt", "--name", "--set", "--text-field", "--id-field")  # all others are paths or ASCII


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
    """Command-line arguments whose text options hold what was typed in the locale's encoding.

    In UTF-8 mode such bytes arrive as surrogate escapes. Paths keep them, so that they name the same files.
    """
    encoding = _locale_encoding()
    if encoding is None:
        return arguments
    decoded = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_text = before in TEXT_OPTIONS or argument.startswith(tuple(f"{name}=" for name in TEXT_OPTIONS))
        decoded.append(_decode(argument, encoding) if is_text else argument)
    return decoded


def _decode(argument: str, encoding: str) -> str:
    try:
        return os.fsencode(argument).decode(encoding)
    except UnicodeDecodeError:
        return argument


def _locale_encoding() -> str | None:
    """The locale's encoding where that is neither UTF-8 nor ASCII, which is a part of UTF-8."""
    try:
        name = codecs.lookup(locale.getencoding()).name
    except LookupError:  # Python has no such codec, so that it reads nothing in it
        return None
    return None if name in ("utf-8", "ascii") else name
