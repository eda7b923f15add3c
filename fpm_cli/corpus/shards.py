"""Cuts the inputs into shards that can be read independently; archives are unpacked into parts first.

A cut is between two records, near each multiple of the shards' size, and depends on nothing but the input
and that size. Unpacking lets every core work on a few large archives, and a build that is killed resume in
the middle of one. Text in another encoding than UTF-8 is unpacked too, into UTF-8.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from fpm_cli.corpus.dialogues import is_json
from fpm_cli.corpus.inputs import Input
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.work_folder import WorkFolder
from fpm_cli.encodings import UTF8
from fpm_cli.files import atomic_write
from fpm_cli.streams import MIB, StreamDefect, is_compressed, open_input

UNPACKED = "unpacked"
ROWS_PER_SHARD = 20_000
_LOOK_BACK = 256  # bytes; more than any end of a record, whatever its blanks

# The end of a record, whatever its content: JSON escapes the quotes and line ends inside its strings.
_LINE_END = re.compile(rb"\n")
_PARAGRAPH_END = re.compile(rb"\n[ \t\r]*\n")
_ENDS: dict[str, re.Pattern[bytes]] = {
    "jsonl": _LINE_END,
    "pile": _LINE_END,
    "wudao": re.compile(rb'\}\s*,\s*(?=\{\s*")'),
    "stc": _LINE_END,
}
_TURNS_END = re.compile(rb'\]\s*,\s*(?=\[\s*")')


@dataclass(frozen=True)
class Shard:
    """A part of one input: bytes of its content (or rows of an `hf` data set) from `start` up to `end`.

    They are in the file `path`, whose first byte is byte `base` of the content. `defect` is where and
    why the content ended too early; `is_only` that the input has no other shard.
    """

    number: int
    input: Input
    start: int
    end: int
    path: Path
    base: int = 0
    defect: StreamDefect | None = None
    is_only: bool = False


@dataclass(frozen=True)
class UnpackTask:
    """An input to unpack; `number` is the input's."""

    number: int
    input: Input
    options: BuildOptions
    shard_bytes: int
    work: WorkFolder


def is_packed(file: Input) -> bool:
    """Whether the input has to be unpacked: it is compressed, or not UTF-8."""
    return file.encoding != UTF8 or is_compressed(file.path)


def unpack(task: UnpackTask) -> None:
    """Write the input's content in UTF-8 as parts that end with a record; memory stays flat."""
    with open_input(task.input.path, task.options.max_expansion, task.input.encoding) as stream:
        end = _record_end(task.options, stream.peek(4096))
        sizes: list[int] = []
        rest: bytes | None = b""
        while rest is not None and (rest or not sizes or stream.peek(1)):
            with atomic_write(_part(task.work, task.number, len(sizes)), sync_name=False) as part:
                rest = _copy(stream, part, rest, task.shard_bytes, end)
                sizes.append(part.tell())
        defect = asdict(stream.defect) if stream.defect else None
    task.work.finish(task.number, UNPACKED, {"sizes": sizes, "defect": defect})


def _part(work: WorkFolder, number: int, part: int) -> Path:
    return work.file(number, f"part-{part:06}")


def _copy(
    stream: BinaryIO, part: BinaryIO, begun: bytes, size: int, end: re.Pattern[bytes] | None
) -> bytes | None:
    """Copy to the first end of a record beyond `size` bytes; return what was read after it, or None."""
    part.write(begun)
    while end is None or part.tell() < size:
        if not (chunk := stream.read(MIB)):
            return None
        part.write(chunk)
    window = b""
    while chunk := stream.read(MIB):
        window += chunk
        if match := end.search(window):
            part.write(window[: match.end()])
            return window[match.end() :]
        part.write(window[:-_LOOK_BACK])
        window = window[-_LOOK_BACK:]
    part.write(window)
    return None


def plan_shards(
    inputs: list[Input], options: BuildOptions, shard_bytes: int, work: WorkFolder
) -> list[Shard]:
    """The shards of all inputs in order, numbered; what is packed has been unpacked."""
    shards: list[Shard] = []
    for number, file in enumerate(inputs):
        if options.source != "hf" and is_packed(file):
            shards += _shards_of_parts(number, file, len(shards), work)
            continue
        cuts = (
            list(range(0, max(1, file.size), ROWS_PER_SHARD))
            if options.source == "hf"
            else _cuts(file, options, shard_bytes)
        )
        for start, stop in zip(cuts, [*cuts[1:], file.size], strict=True):
            shards.append(Shard(len(shards), file, start, stop, file.path, is_only=len(cuts) == 1))
    return shards


def _shards_of_parts(number: int, file: Input, first: int, work: WorkFolder) -> list[Shard]:
    summary = work.summary(number, UNPACKED)
    sizes, defect = summary["sizes"], summary["defect"]
    shards, start = [], 0
    for part, size in enumerate(sizes):
        is_last = part == len(sizes) - 1
        shard = Shard(
            number=first + part,
            input=file,
            start=start,
            end=start + size,
            path=_part(work, number, part),
            base=start,
            defect=StreamDefect(**defect) if defect and is_last else None,
            is_only=len(sizes) == 1,
        )
        shards.append(shard)
        start += size
    return shards


def _record_end(options: BuildOptions, head: bytes) -> re.Pattern[bytes] | None:
    """What ends a record of the source; None where the whole file has to be read as one."""
    if options.join_characters or options.document == "file":
        return None
    if options.source == "text":
        return _LINE_END if options.document == "line" else _PARAGRAPH_END
    if options.source == "stc" and is_json(head):
        return _TURNS_END
    return _ENDS[options.source]


def _cuts(file: Input, options: BuildOptions, shard_bytes: int) -> list[int]:
    """Where the shards of a plain file start."""
    cuts = [0]
    with file.path.open("rb") as stream:
        end = _record_end(options, stream.read(4096))
        while end and (target := cuts[-1] + shard_bytes) < file.size:
            cut = _next_end(stream, end, target, file.size)
            if cut == file.size:
                break
            cuts.append(cut)
    return cuts


def _next_end(stream: BinaryIO, end: re.Pattern[bytes], target: int, size: int) -> int:
    """The first end of a record at or after `target`, or the file's."""
    stream.seek(target)
    position, window = target, b""  # `window` begins at `position`
    while chunk := stream.read(MIB):
        window += chunk
        if match := end.search(window):
            return position + match.end()
        position += max(0, len(window) - _LOOK_BACK)
        window = window[-_LOOK_BACK:]
    return size
