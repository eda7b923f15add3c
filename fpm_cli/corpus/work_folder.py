"""The work folder of a build: where each shard's files are, and which shards are finished.

A shard's summary is written last and atomically: a shard is finished when its summary is there.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpm_cli.files import atomic_write

WORK_FORMAT = 2  # of the files in the folder: a build begun in another format cannot be resumed

# One clean document: where its text is in the shard's text file, its place in the input, its hashes.
DOCUMENT_RECORD = np.dtype(
    [
        ("text_start", "<u8"),
        ("text_bytes", "<u8"),
        ("offset", "<u8"),
        ("digest_high", "<u8"),
        ("digest_low", "<u8"),
        ("id", "<u8"),
        ("group", "<u8"),
    ]
)
pack_document_record = struct.Struct("<7Q").pack  # a DOCUMENT_RECORD, several times as fast as by numpy
CHUNK_RECORDS = 1 << 16
Records = npt.NDArray[np.void]


@dataclass(frozen=True)
class WorkFolder:
    """Names the files of a build; `number` is a shard's."""

    path: Path

    def file(self, number: int, kind: str) -> Path:
        """A shard's file of one kind: text, records, bands, defects, drops, or of its encoding."""
        return self.path / "shards" / f"{number:06}.{kind}"

    def records(self, number: int) -> Iterator[Records]:
        """The records of a cleaned shard, in chunks of bounded size."""
        with self.file(number, "records").open("rb") as file:
            while len(records := np.fromfile(file, dtype=DOCUMENT_RECORD, count=CHUNK_RECORDS)):
                yield records

    def finish(self, number: int, stage: str, summary: Mapping[str, Any]) -> None:
        """Mark a shard as finished with a stage."""
        write_json(self.file(number, f"{stage}.json"), summary)

    def is_finished(self, number: int, stage: str) -> bool:
        """Whether the shard has finished that stage."""
        return self.file(number, f"{stage}.json").is_file()

    def summary(self, number: int, stage: str) -> Any:
        """What `finish` was given."""
        return json.loads(self.file(number, f"{stage}.json").read_bytes())


def write_json(path: Path, document: Any) -> None:
    """Write indented JSON atomically."""
    with atomic_write(path) as file:
        file.write(
            (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode(errors="backslashreplace")
        )
