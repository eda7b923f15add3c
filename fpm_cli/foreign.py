"""Reads files from elsewhere: only inside their folder, only up to a size, with typed errors."""

import json
from pathlib import Path
from typing import Any

from fpm_cli.errors import DamagedError

MAX_BYTES = 2**28  # of a JSON file or a tokenizer file; the largest vocabularies take a tenth of it


def within(folder: Path, name: str) -> Path:
    """The path `folder / name`, which must lie inside the folder.

    Raises:
        DamagedError: `..` or a link leads out of the folder.
    """
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise DamagedError(f"{folder}: {name!r} lies outside the folder")
    return path


def read_whole(path: Path) -> bytes:
    """The bytes of a file from elsewhere.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is a pipe, a device or a folder, or is larger than MAX_BYTES.
    """
    if path.exists() and not path.is_file():
        raise DamagedError(f"{path} is not a regular file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise DamagedError(f"{path}: {size:,} bytes; at most {MAX_BYTES:,} are read")
    return path.read_bytes()


def parse_json(content: bytes) -> Any:
    """The JSON value of UTF-8 text from elsewhere.

    Raises:
        ValueError: the text is not JSON, or is nested too deep.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
