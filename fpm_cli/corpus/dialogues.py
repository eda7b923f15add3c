"""Dialogues, as STC has them: turns of text whose words or characters are separated by blanks."""

import re
from collections.abc import Iterator

from fpm_cli.corpus.json_stream import TURNS_START, json_values
from fpm_cli.corpus.options import BuildOptions
from fpm_cli.corpus.records import NO_RESPONSE, NO_TEXT, OVERSIZED, Decoded, Record, decode
from fpm_cli.streams import InputStream, lines

_SEGMENTED = re.compile(r"(?<![A-Za-z0-9])[ \t\u3000]+|[ \t\u3000]+(?![A-Za-z0-9])")


def read_stc(stream: InputStream, options: BuildOptions) -> Iterator[Record]:
    """Dialogues as documents of one turn per line: JSON lists of turns at any depth, or `post<TAB>response`.

    The blanks between segmented Chinese words or characters are removed.
    """
    if is_json(stream.peek(4096)):
        for item in json_values(stream, TURNS_START, options.max_document_bytes):
            turns = item.value
            if item.reason:
                yield Record(item.offset, None, item.reason)
            elif isinstance(turns, list) and all(isinstance(turn, str) for turn in turns):
                yield _dialogue(item.offset, turns, Decoded("", item.invalid_at, item.num_invalid))
            else:
                yield Record(item.offset, None, NO_TEXT, keys=str(turns)[:40])
        return
    for offset, line in lines(stream, options.max_document_bytes):
        if line is None:
            yield Record(offset, None, OVERSIZED)
        elif line.strip():
            decoded = decode(line)
            yield _dialogue(offset, decoded.text.strip("\n\r").split("\t"), decoded)


def is_json(head: bytes) -> bool:
    """Whether content that begins so is JSON, not a table of dialogues."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{")


def join_segmented(turn: str) -> str:
    """The turn without the blanks around Chinese; those between two Latin words or numbers stay."""
    return _SEGMENTED.sub("", turn.replace("\n", " ").replace("\r", " ").strip())


def _dialogue(offset: int, turns: list[str], decoded: Decoded) -> Record:
    turns = [joined for turn in turns if (joined := join_segmented(turn))]
    if len(turns) < 2:
        return Record(offset, None, NO_RESPONSE)
    invalid_at = None if decoded.invalid_at is None else offset + decoded.invalid_at
    return Record(
        offset, "\n".join(turns), group=turns[0], invalid_at=invalid_at, num_invalid=decoded.num_invalid
    )
