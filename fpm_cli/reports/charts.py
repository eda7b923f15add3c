"""Line charts as SVG text, with a title and a description for screen readers.

Colours are classes of the page's style sheet, so that a chart follows the light or dark scheme.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 480.0, 280.0  # user units; the page scales the chart to its column
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 12.0, 44.0
INSET = 14.0  # of a logarithmic x axis
MOST_POINTS = 300  # of a line; more are averaged in bins
TARGET_TICKS = 5

Point = tuple[float, float]
Place = Callable[[float], float]  # a value to user units
Style = Literal["line", "thin", "dashed", "points", "dots", "circles", "level"]


@dataclass(frozen=True)
class Series:
    """One curve. `color` is 1 to 4, of the style sheet; a level is a horizontal dashed line.

    Dots and open circles are not connected. A series without a label is left out of legend and table.
    """

    label: str
    points: Sequence[Point]
    color: int
    style: Style = "line"


@dataclass(frozen=True)
class Chart:
    """A chart with what a reader who does not see it needs."""

    title: str
    description: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[float] = ()  # x positions of vertical lines: restarts and skipped steps
    mark_label: str = ""
    log_y: bool = False
    from_zero: bool = False
    log_x: bool = False  # of positive values
    x_ticks: Sequence[float] = ()  # where they are given, these and no others

    @property
    def drawn(self) -> list[Series]:
        """The series that have points."""
        return [series for series in self.series if series.points]

    @property
    def named(self) -> list[Series]:
        """Those of them that have a label."""
        return [series for series in self.drawn if series.label]


def svg(chart: Chart, name: str) -> str:
    """The chart as an SVG element; `name` makes its ids unique within the page."""
    series = [Series(s.label, _binned(_drawable(s.points, chart)), s.color, s.style) for s in chart.drawn]
    series = [s for s in series if s.points]
    xs = [x for s in series for x, _ in s.points if s.style != "level"] or [0.0, 1.0]
    ys = [y for s in series for _, y in s.points] or [1.0, 10.0]
    x_low, x_high = min(xs if chart.log_x else (0.0, *xs)), max(xs)
    y_ticks = (
        _log_ticks(min(ys), max(ys))
        if chart.log_y
        else _ticks(min(0.0, *ys) if chart.from_zero else min(ys), max(ys))
    )
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place_x(x: float) -> float:
        if not chart.log_x:
            return LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)
        inner = LEFT + INSET  # a point lies inside the frame
        return inner + _share(x, x_low, x_high, log=True) * (WIDTH - RIGHT - INSET - inner)

    def place_y(y: float) -> float:
        share = _share(y, y_low, y_high, log=chart.log_y)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-description">',
        f'<title id="{name}-title">{escape(chart.title)}</title>',
        f'<desc id="{name}-description">{escape(chart.description)}</desc>',
    ]
    for tick in y_ticks:
        y = place_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in (t for t in chart.x_ticks or _ticks(x_low, x_high) if x_low <= t <= x_high):
        x = place_x(tick)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17:g}" text-anchor="middle">{_number(tick)}</text>'
        )
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8:g}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>"
    )
    for mark in chart.marks:
        x = place_x(mark)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP:g}" y2="{HEIGHT - BOTTOM:g}"/>')
    for s in series:
        parts += _draw(s, place_x, place_y)
    return "\n".join([*parts, "</svg>"])


def _draw(series: Series, place_x: Place, place_y: Place) -> list[str]:
    color = f"c{series.color}"
    if series.style == "level":
        y = place_y(series.points[0][1])
        ends = f'x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"'
        return [f'<line class="level {color}" {ends}/>']
    places = [f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in series.points]
    parts = []
    if len(places) > 1 and series.style not in ("dots", "circles"):
        line = series.style if series.style in ("thin", "dashed") else "line"
        parts.append(f'<polyline class="{line} {color}" points="{" ".join(places)}"/>')
    if series.style in ("points", "dots", "circles") or len(places) == 1:
        kind, radius = (f"{color} open", 4) if series.style == "circles" else (color, 3)
        parts += [
            f'<circle class="{kind}" cx="{place.partition(",")[0]}" cy="{place.partition(",")[2]}" '
            f'r="{radius if series.style != "dots" else 4}"/>'
            for place in places
        ]
    return parts


def values_table(chart: Chart, rows: int = 8) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table with some of a chart's values, for readers who do not see the chart."""
    series = [s for s in chart.named if s.style not in ("level", "dashed")]
    if not series:
        return [], []
    fewest = min(series, key=lambda s: len(s.points))
    steps = [x for x, _ in _spread(fewest.points, rows)]
    values = [dict(s.points) for s in series]
    body = [[_number(step), *(_number(v[step]) if step in v else "" for v in values)] for step in steps]
    return [chart.x_label, *(s.label for s in series)], body


def _drawable(points: Sequence[Point], chart: Chart) -> Sequence[Point]:
    """A logarithmic axis has no place for zero and below."""
    return [(x, y) for x, y in points if y > 0] if chart.log_y else points


def _spread(points: Sequence[Point], number: int) -> list[Point]:
    """At most `number` of the points, evenly spread, first and last included."""
    if len(points) <= number:
        return list(points)
    return [points[round(place * (len(points) - 1) / (number - 1))] for place in range(number)]


def _binned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points: means of consecutive ones."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    if size == 1:
        return list(points)
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in bins]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    raw = (high - low) / TARGET_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or 1, 2 and 5 times them, from below `low` to above `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 3:
        return [10.0**power for power in range(first, last + 1)]
    candidates = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    below = [c for c in candidates if c <= low * (1 + 1e-9)][-1:]
    above = [c for c in candidates if c >= high * (1 - 1e-9)][:1]
    inside = [c for c in candidates if below[0] < c < above[0]]
    return [*below, *inside, *above] if below != above else [below[0], below[0] * 10]


def _share(value: float, low: float, high: float, *, log: bool) -> float:
    if log:
        value, low, high = (math.log(max(v, 1e-300)) for v in (value, low, high))
    return min(1.0, max(0.0, (value - low) / ((high - low) or 1)))


def _number(value: float) -> str:
    """A tick's label: short, without trailing zeros."""
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if size >= 1e4 and value == int(value):
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if value == round(value, 4) else f"{value:.4g}"
