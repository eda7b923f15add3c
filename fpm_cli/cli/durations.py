"""Durations as people write them: `90s`, `30m`, `1h30m`, `2d`."""

import re

from fpm_cli.errors import UsageError

SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
WRITTEN = re.compile(r"(?:(?:\d+(?:\.\d+)?)[dhms])+", re.ASCII)


def seconds_of(text: str) -> float:
    """The seconds of a duration.

    Raises:
        UsageError: it is none, has no unit, or is 0.
    """
    written = text.strip().lower()
    if WRITTEN.fullmatch(written):
        parts = re.findall(r"([\d.]+)([dhms])", written)
        seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
        if seconds:
            return seconds
    raise UsageError(f"{text!r} is not a duration; write 90s, 30m, 1h30m or 2d")
