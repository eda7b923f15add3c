"""Numbers, durations and sizes as reports and tables print them."""

from typing import Any


def duration(seconds: float) -> str:
    """A duration in its two largest units: `42 s`, `3 min 20 s`, `5 h 12 min`, `2 d 3 h`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    total = round(seconds)
    for name, size, smaller, smaller_size in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if total >= size:
            rest = total % size // smaller_size
            return f"{total // size} {name}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError(seconds)


def quantity(value: float, unit: str) -> str:
    """A value with a prefix of the unit: `3.2 TFLOP`, `950 GFLOP/s`."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def price(value: float) -> str:
    """An amount of money in any currency."""
    return f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.2g}"


def setting(value: Any) -> str:
    """A value of the configuration as TOML writes it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
