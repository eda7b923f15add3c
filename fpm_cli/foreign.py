"""Reading files that somebody else made: none outside their folder, none endless, with typed errors."""

import json
from pathlib import Path
from typing import Any

from fpm_cli.errors import DamagedError

MOST_BYTES = 2**28  # of a JSON file or a tokenizer's; the largest vocabularies take a tenth


def within(folder: Path, name: str) -> Path:
    """`folder / name`, if neither `..` nor a link in it leads out of the folder.

    Raises:
        DamagedError: it does.
    """
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise DamagedError(f"{folder}: {name!r} lies outside the folder")
    return path


def read_whole(path: Path) -> bytes:
    """The bytes of a file that somebody else made.

    Raises:
        FileNotFoundError: it is not there.
        DamagedError: it is a pipe, a device or a folder, or has more than MOST_BYTES.
    """
    if path.exists() and not path.is_file():
        raise DamagedError(f"{path} is no file")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DamagedError(f"{path}: {size:,} bytes, but such a file has at most {MOST_BYTES:,}")
    return path.read_bytes()


def parse_json(content: bytes) -> Any:
    """The JSON value in UTF-8 text that somebody else made.

    Raises:
        ValueError: it is none, or is nested too deep.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
