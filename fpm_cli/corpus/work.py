"""The work folder of a build: where each shard's files lie, and which shards are finished.

A shard's summary is written last and whole, so that its presence is the journal's entry.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.files import atomic_write

# One clean document: where its text lies in the shard's text file, its place in the input, its hashes.
RECORD = np.dtype(
    [
        ("text_start", "<u8"),
        ("text_bytes", "<u4"),
        ("characters", "<u4"),
        ("offset", "<u8"),
        ("digest_high", "<u8"),
        ("digest_low", "<u8"),
        ("id", "<u8"),
        ("group", "<u8"),
    ]
)
pack_record = struct.Struct("<QIIQQQQQ").pack  # a row of RECORD, some times quicker than by numpy
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
            while len(records := np.fromfile(file, dtype=RECORD, count=CHUNK_RECORDS)):
                yield records

    def finish(self, number: int, stage: str, summary: Mapping[str, Any]) -> None:
        """Enter a shard into the journal."""
        write_json(self.file(number, f"{stage}.json"), summary)

    def is_finished(self, number: int, stage: str) -> bool:
        """Whether the shard went through that stage."""
        return self.file(number, f"{stage}.json").is_file()

    def summary(self, number: int, stage: str) -> Any:
        """What `finish` was given."""
        return json.loads(self.file(number, f"{stage}.json").read_bytes())


def write_json(path: Path, document: Any) -> None:
    """Write indented JSON, whole or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode())
