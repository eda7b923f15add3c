"""A tokenizer's directory: `tokenizer.meta.json` and the files of the model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.files import new_folder
from fpm_cli.foreign import parse_json, read_whole, within

META = "tokenizer.meta.json"
FORMAT = "fpm.tokenizer/1"


@dataclass(frozen=True)
class StoredTokenizer:
    """What a tokenizer directory holds, its fingerprint already checked."""

    kind: str
    vocab_size: int
    options: dict[str, Any]
    files: dict[str, bytes]


def fingerprint_of(kind: str, options: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """SHA-256, in hex, over the kind, the options and each file's name and bytes."""
    digest = hashlib.sha256(json.dumps([kind, dict(options)], sort_keys=True).encode())
    for name in sorted(files):
        digest.update(f"\0{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()


def write_directory(
    directory: Path,
    *,
    kind: str,
    vocab_size: int,
    options: Mapping[str, Any],
    files: Mapping[str, bytes],
    hf_inexact: str | None,
) -> None:
    """Write to a temporary directory and rename it; an existing directory is refused."""
    check_output_is_new(directory)
    meta = {
        "format": FORMAT,
        "kind": kind,
        "vocab_size": vocab_size,
        "options": dict(options),
        "files": sorted(files),
        "fingerprint": fingerprint_of(kind, options, files),
        "hf_tokenizer_json": "exact" if hf_inexact is None else f"none: {hf_inexact}",
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(directory) as folder:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / META).write_text(json.dumps(meta, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def check_output_is_new(directory: Path) -> None:
    """Refuse to overwrite, before hours of work end in that refusal."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(f"{directory} exists; choose another --out or remove it")


def read_directory(directory: Path) -> StoredTokenizer:
    """Read and verify. MissingError without the directory, DamagedError if anything disagrees."""
    if not directory.is_dir():
        raise MissingError(f"no tokenizer at {directory}")
    if not (directory / META).is_file():
        raise MissingError(f"{directory} has no {META}; published vocabularies are read with --published")
    try:
        meta = parse_json(read_whole(within(directory, META)))
        names = [str(name) for name in meta["files"]]
        stored = StoredTokenizer(str(meta["kind"]), int(meta["vocab_size"]), dict(meta["options"]), {})
        if meta["format"] != FORMAT:
            raise ValueError(f"format is {meta['format']!r}, not {FORMAT!r}")
        if any(Path(name).name != name for name in names):
            raise ValueError("a file is outside the directory")
        stored.files.update({name: read_whole(within(directory, name)) for name in names})
        fingerprint = fingerprint_of(stored.kind, stored.options, stored.files)
        if fingerprint != meta["fingerprint"]:
            raise ValueError(
                f"fingerprint is {fingerprint[:12]}, recorded was {str(meta['fingerprint'])[:12]}"
            )
    except (ValueError, KeyError, TypeError, OverflowError, FileNotFoundError, DamagedError) as error:
        raise DamagedError(f"tokenizer {directory} is damaged: {error}; make or copy it again") from error
    return stored
