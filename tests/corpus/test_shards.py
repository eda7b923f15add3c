"""Shards are cut between records, so that reading them one by one is reading the whole."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fpm_cli.corpus.inputs import Input
from fpm_cli.corpus.options import BuildOptions, build_options
from fpm_cli.corpus.readers import READERS, Record
from fpm_cli.corpus.shards import Shard, UnpackTask, plan_shards, unpack
from fpm_cli.corpus.work_folder import WorkFolder
from fpm_cli.streams import open_range

SHARD_BYTES = 300_000


def content_of(source: str, rng: random.Random) -> bytes:
    texts = [f"第{i}篇 }}, {{ ] , [" + "文字 word。\n" * rng.randrange(1, 300) for i in range(1500)]
    records: list[Any] = [
        {"uniqueKey": str(i), "content": text, "text": text} for i, text in enumerate(texts)
    ]
    turns = [[f"问 {i}", text.replace("\n", " ")] for i, text in enumerate(texts)]
    written = {
        "text": "\n\n \n".join(texts),
        "jsonl": "\n".join(json.dumps(record) for record in records),
        "wudao": json.dumps(records, ensure_ascii=False, indent=4),
        "stc": json.dumps({"train": turns[:700], "valid": turns[700:]}, ensure_ascii=False, indent=0),
    }
    return written[source].encode()


def records_of(shards: list[Shard], options: BuildOptions) -> list[Record]:
    found = []
    for shard in shards:
        first = shard.start - shard.base
        with open_range(shard.path, first, first + shard.end - shard.start) as stream:
            for record in READERS[options.source](stream, options):
                found.append(Record(shard.start + record.offset, record.text, record.reason, record.id))
    return found


@pytest.mark.parametrize("source", ["text", "jsonl", "wudao", "stc"])
def test_shards_of_files_and_archives_hold_every_record_once(tmp_path: Path, source: Any) -> None:
    content = content_of(source, random.Random(3))
    options, work = build_options(source), WorkFolder(tmp_path / "work")
    (work.path / "shards").mkdir(parents=True)
    plain, packed = tmp_path / "a", tmp_path / "a.zst"
    plain.write_bytes(content)
    packed.write_bytes(zstandard.ZstdCompressor().compress(content))
    [whole] = plan_shards([Input("a", plain, len(content))], options, len(content), work)
    expected = records_of([whole], options)
    assert len(expected) == 1500 and all(record.text for record in expected)
    cut = plan_shards([Input("a", plain, len(content))], options, SHARD_BYTES, work)
    assert len(cut) > 5
    assert records_of(cut, options) == expected

    archive = Input("a.zst", packed, packed.stat().st_size)
    unpack(UnpackTask(0, archive, options, SHARD_BYTES, work))
    parts = plan_shards([archive], options, SHARD_BYTES, work)
    assert len(parts) > 2
    assert b"".join(part.path.read_bytes() for part in parts) == content
    assert records_of(parts, options) == expected
