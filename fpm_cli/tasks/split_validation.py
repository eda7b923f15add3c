"""Splits examples into a training and a validation part, by a hash of their text."""

from collections.abc import Sequence

import xxhash

from fpm_cli.errors import UsageError
from fpm_cli.tasks.examples import Example

SPLITS = ("train", "validation")


def split_off_validation(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Split off about `fraction` of the examples for validation.

    The split depends on the text alone, so that copies of an example, of which TNEWS has thousands, are
    all on the same side.

    Raises:
        UsageError: a side is empty.
    """
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        text = "\t".join([example.text_a, example.text_b or "", *example.more_texts])
        sides[xxhash.xxh3_64_intdigest(text.encode()) < fraction * 2**64].append(example)
    for side, name in zip(sides, SPLITS, strict=True):
        if not side:
            raise UsageError(
                f"--validation {fraction:g} of {len(examples):,} examples leaves none for {name}; name a file"
            )
    return sides
