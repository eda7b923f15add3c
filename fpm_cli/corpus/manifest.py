"""The manifest of a corpus: where it came from, what each step did, and the checksum of each file.

The manifest holds nothing that differs between two builds of the same input with the same options:
no dates, no durations, no machine paths.
"""

import json
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import ValidationError

from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import FileFacts, replace_file
from fpm_cli.foreign import parse_json, read_whole
from fpm_cli.frozen import Frozen
from fpm_cli.tokenization.lost_text import LostText

SCHEMA: Literal["fpm.corpus/1"] = "fpm.corpus/1"
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


class InputFile(FileFacts):
    """An input as it was read: its name within what the user gave, size and hash."""

    name: str


class SkippedInput(Frozen):
    """A file or link of a given folder (or a data set's split) that was not read, and why."""

    name: str
    reason: str
    detail: str = ""


class TokenizerFacts(Frozen):
    """Which tokenizer made the ids; `fingerprint` changes with its bytes and options."""

    kind: str
    vocab_size: int
    fingerprint: str


class SplitFacts(Frozen):
    """What one split holds; text sizes are those of the normalised documents."""

    documents: int
    sequences: int
    tokens: int
    text_bytes: int
    text_characters: int
    lost: LostText | None = None  # what the tokens do not determine; measured on the validation split only


class Counts(Frozen):
    """Every document that was read is kept or dropped; a repaired one lost only broken characters.

    `defects` counts what is wrong with the inputs; each has its place in `defects.jsonl`.
    """

    documents_read: int
    documents_kept: int
    dropped: dict[str, int]
    repaired: dict[str, int]
    defects: dict[str, int]
    bytes_in: int


class Manifest(Frozen):
    """The content of `manifest.json`; `fingerprint` is the hash of all the rest."""

    schema_: Literal["fpm.corpus/1"] = SCHEMA
    source: str
    inputs: tuple[InputFile, ...]
    options: dict[str, Any]
    tokenizer: TokenizerFacts
    counts: Counts
    splits: dict[Split, SplitFacts]
    files: dict[str, FileFacts]
    skipped: tuple[SkippedInput, ...] = ()
    fingerprint: str = ""

    def document(self) -> dict[str, Any]:
        """The manifest as JSON-ready values, with `schema` first; `skipped` and `lost` only if there is any.

        So the content of manifests that older versions wrote, and their fingerprint, stay the same.
        """
        fields = self.model_dump(mode="json")
        if not self.skipped:
            del fields["skipped"]
        for split in fields["splits"].values():
            if split["lost"] is None:
                del split["lost"]
        return {"schema": fields.pop("schema_"), **fields}

    def sealed(self) -> "Manifest":
        """This manifest with the fingerprint that its content gives."""
        return self.model_copy(update={"fingerprint": self.content_hash()})

    def content_hash(self) -> str:
        """The hex xxh3-128 of everything but the fingerprint."""
        document = self.document()
        del document["fingerprint"]
        canonical = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return str(xxhash.xxh3_128_hexdigest(canonical.encode()))

    def to_bytes(self) -> bytes:
        """The manifest as `manifest.json` holds it, to the byte."""
        return (json.dumps(self.document(), ensure_ascii=False, indent=2) + "\n").encode()

    def write(self, path: Path) -> None:
        """Write the manifest atomically."""
        replace_file(path, self.to_bytes())


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest: MissingError if absent, DamagedError naming what is wrong in it."""
    try:
        document = parse_json(read_whole(path))
    except FileNotFoundError:
        raise MissingError(f"{path} is not there: {path.parent} is not a corpus") from None
    except ValueError as error:
        raise DamagedError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DamagedError(f"{path}: its schema is not {SCHEMA!r}")
    document["schema_"] = document.pop("schema")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedError(f"{path}: {where}: {first['msg']}") from None
    if manifest.fingerprint != manifest.content_hash():
        raise DamagedError(f"{path}: its content does not match its fingerprint {manifest.fingerprint}")
    return manifest
