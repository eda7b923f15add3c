"""Durations as people write them: `90s`, `30m`, `1h30m`, `2d`, or a number in a flag's own unit."""

import re

from fpm_cli.config.sections import MAX_SECONDS
from fpm_cli.errors import UsageError

SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
NUMBER = r"\d+(?:\.\d+)?"
WITH_UNITS = re.compile(rf"(?:{NUMBER}[dhms])+", re.ASCII)
BARE = re.compile(NUMBER, re.ASCII)


def seconds_of(text: str, *, bare_unit: str) -> float:
    """The seconds of a duration; `bare_unit` (d, h, m or s) is that of a number without one.

    Raises:
        UsageError: it is not a duration, is 0, or is longer than ten years.
    """
    duration = text.strip().lower()
    if BARE.fullmatch(duration):
        duration += bare_unit
    if WITH_UNITS.fullmatch(duration):
        parts = re.findall(rf"({NUMBER})([dhms])", duration)
        seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
        if 0 < seconds <= MAX_SECONDS:
            return seconds
    raise UsageError(
        f"{text!r} is not a duration above 0 and up to ten years; write 90s, 30m, 1h30m, 2d, "
        f"or a number of {bare_unit}"
    )
