"""The result of every benchmark: fpm beside a peer in the same run, as a ratio over interleaved rounds.

A ratio of two programs on one machine, measured in turns, carries over to another hour and partly to another
machine; a time alone does not. So a `Measurement` is compared with an earlier one by its ratio.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """One case of a benchmark; medians over the rounds.

    `ratio` is the peer's value over fpm's, round by round: how many times as fast fpm is, or how many times
    as little memory it takes. `asked` is the ratio that the project aims at; `limit` says what bounds it.
    """

    part: str
    case: str
    peer: str
    ratio: float
    quartiles: tuple[float, float]
    value: float
    peer_value: float
    unit: str = "s"
    threads: int = 1
    rounds: int = 1
    asked: float | None = None
    limit: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What two runs of the suite have in common."""
        return self.part, self.case, self.peer, self.threads


def measurement(
    part: str, case: str, peer: str, values: Sequence[float], peer_values: Sequence[float], **about: Any
) -> Measurement:
    """From fpm's and the peer's value in each round; `about`: further fields of `Measurement`."""
    ratios = [theirs / ours for ours, theirs in zip(values, peer_values, strict=True)]
    low, middle, high = quartiles(ratios)
    ours, theirs = statistics.median(values), statistics.median(peer_values)
    return Measurement(part, case, peer, middle, (low, high), ours, theirs, rounds=len(ratios), **about)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile; of one value, the value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def interleave(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each side returns in each round; the sides take turns, and every round begins with another."""
    names = list(sides)
    values: dict[str, list[T]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            values[name].append(sides[name]())
    return values


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process for one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def parse_arguments(
    description: str, add: Callable[[argparse.ArgumentParser], object] = lambda _: None
) -> argparse.Namespace:
    """A benchmark's own arguments, and `--out`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add(parser)
    parser.add_argument("--out", type=Path, help="JSON to write: what `make bench` gathers")
    return parser.parse_args()


def report(measurements: Iterable[Measurement], out: Path | None) -> None:
    """Print one line for each, and write them as JSON."""
    rows = list(measurements)
    for row in rows:
        print(line(row), flush=True)
    if out:
        out.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")


def line(row: Measurement) -> str:
    """One measurement as text."""
    asked = "" if row.asked is None else f", asked {row.asked:g}x"
    limit = f"; {row.limit}" if row.limit else ""
    threads = "thread" if row.threads == 1 else "threads"
    return (
        f"{row.part}: {row.case}, {row.threads} {threads}: {quantity(row.value, row.unit)}, {row.peer} "
        f"{quantity(row.peer_value, row.unit)}: {times(row.ratio)} ({times(row.quartiles[0])} to "
        f"{times(row.quartiles[1])}{asked}){limit}"
    )


def quantity(value: float, unit: str) -> str:
    """Three digits with their unit; seconds below one as milliseconds or microseconds."""
    if unit == "s" and value < 1:
        value, unit = (value * 1e3, "ms") if value >= 1e-3 else (value * 1e6, "µs")
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def times(ratio: float) -> str:
    """A ratio with three digits."""
    return f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}x"


def read(path: Path) -> list[Measurement]:
    """What `report` wrote."""
    return from_rows(json.loads(path.read_text(encoding="utf-8")))


def from_rows(rows: Iterable[dict[str, Any]]) -> list[Measurement]:
    """Measurements from their JSON objects."""
    return [Measurement(**{**row, "quartiles": tuple(row["quartiles"])}) for row in rows]
