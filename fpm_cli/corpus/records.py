"""A record: what a reader makes of one document of its input, or why there is none."""

from dataclasses import dataclass
from typing import NamedTuple

BROKEN, NO_TEXT, OVERSIZED, EXCLUDED = "broken_json", "no_text_field", "oversized", "excluded_set"
NO_RESPONSE = "no_response"


@dataclass(frozen=True, slots=True)
class Record:
    """One document at a byte offset of its input's content; without text, `reason` says why.

    `id` is the source's own name of the document; `group` is what a dialogue replies to. `num_invalid`
    bytes were not UTF-8 and are left out; `invalid_at` is the offset of the first. `keys` are those of a
    JSON object without the text field, or how a value that is no object begins.
    """

    offset: int
    text: str | None
    reason: str = ""
    id: str = ""
    group: str = ""
    invalid_at: int | None = None
    num_invalid: int = 0
    keys: str = ""


class Decoded(NamedTuple):
    """A text without its `num_invalid` bytes that are not UTF-8, the first of them at `invalid_at`."""

    text: str
    invalid_at: int | None = None
    num_invalid: int = 0


def decode(content: bytes) -> Decoded:
    """The text of UTF-8 bytes; those that are not UTF-8 are left out and counted."""
    try:
        return Decoded(content.decode())
    except UnicodeDecodeError as error:
        text = content.decode(errors="ignore")
        return Decoded(text, error.start, len(content) - len(text.encode()))
