"""Charts: points lie where their values are, long curves are averaged, and each has a text alternative."""

import re

import pytest

from fpm_cli.reports.charts import MOST_POINTS, Chart, Series, svg, values_table


def chart(points: list[tuple[float, float]], **options: bool) -> Chart:
    return Chart("Loss", "A loss & its <end>.", "step", "nats", [Series("loss", points, 1)], **options)


def polyline(text: str) -> list[tuple[float, float]]:
    (points,) = re.findall(r'<polyline[^>]* points="([^"]*)"', text)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def ticks(text: str) -> dict[float, float]:
    """Height of each labelled value of the y axis, from the drawing alone."""
    lines = [float(y) for y in re.findall(r'class="grid"[^>]* y1="([\d.]+)"', text)]
    labels = re.findall(r'text-anchor="end">([^<]+)<', text)
    return {float(label.replace("k", "e3")): y for label, y in zip(labels, lines, strict=True)}


def test_a_point_lies_between_the_grid_lines_of_the_values_around_it() -> None:
    text = svg(chart([(0, 2.0), (5, 3.0), (10, 6.0)]), "c")
    heights = ticks(text)
    (_, first), (middle_x, middle), (_, last) = polyline(text)
    low, high = min(heights), max(heights)
    scale = (heights[low] - heights[high]) / (high - low)
    for height, value in ((first, 2.0), (middle, 3.0), (last, 6.0)):
        assert height == pytest.approx(heights[low] - (value - low) * scale, abs=0.2)
    xs = [x for x, _ in polyline(text)]
    assert middle_x == pytest.approx((xs[0] + xs[2]) / 2, abs=0.1)


def test_equal_ratios_have_equal_distances_on_a_logarithmic_axis() -> None:
    text = svg(chart([(0, 1.0), (1, 10.0), (2, 100.0)], log_y=True), "c")
    (_, a), (_, b), (_, c) = polyline(text)
    assert a - b == pytest.approx(b - c, abs=0.2) and a > b


def test_a_long_curve_is_drawn_as_means_of_consecutive_points() -> None:
    points = [(float(n), float(n % 2)) for n in range(100 * MOST_POINTS)]
    drawn = polyline(svg(chart(points), "c"))
    assert len(drawn) <= MOST_POINTS
    assert len({y for _, y in drawn}) == 1  # each mean is a half


@pytest.mark.parametrize("points", [[], [(1.0, 3.0)], [(1.0, 0.0), (2.0, 0.0)]])
@pytest.mark.parametrize("log_y", [False, True])
def test_few_or_equal_values_are_drawn(points: list[tuple[float, float]], log_y: bool) -> None:
    text = svg(chart(points, log_y=log_y), "c")
    assert "nan" not in text and "inf" not in text


def test_title_and_description_are_escaped_and_referenced() -> None:
    text = svg(chart([(0, 1.0), (1, 2.0)]), "c7")
    assert 'role="img" aria-labelledby="c7-title c7-description"' in text
    assert '<desc id="c7-description">A loss &amp; its &lt;end&gt;.</desc>' in text


def test_the_table_of_values_has_first_and_last_point() -> None:
    heads, rows = values_table(chart([(float(n), n / 2) for n in range(100)]))
    assert heads == ["step", "loss"]
    assert rows[0] == ["0", "0"] and rows[-1] == ["99", "49.5"] and len(rows) == 8


def test_a_logarithmic_x_axis_has_equal_ratios_at_equal_distances() -> None:
    text = svg(Chart("t", "d", "x", "y", [Series("s", [(2, 1.0), (4, 2.0), (16, 3.0)], 1)], log_x=True), "c")
    (first, _), (second, _), (third, _) = polyline(text)
    assert third - second == pytest.approx(2 * (second - first), abs=0.2)


def test_only_the_given_x_ticks_are_labelled() -> None:
    chart_ = Chart("t", "d", "x", "y", [Series("s", [(2, 1.0), (90, 2.0)], 1)], log_x=True, x_ticks=(2, 90))
    labels = re.findall(r'text-anchor="middle">([^<]+)<', svg(chart_, "c"))
    assert labels == ["2", "90", "x"]


def test_open_circles_are_not_connected_and_a_series_without_a_label_is_not_in_the_table() -> None:
    series = [Series("open", [(1, 1.0), (2, 2.0)], 2, "circles"), Series("", [(1, 1.5), (2, 2.5)], 1, "thin")]
    chart_ = Chart("t", "d", "x", "y", series)
    text = svg(chart_, "c")
    assert text.count("<polyline") == 1 and text.count('class="c2 open"') == 2
    assert values_table(chart_)[0] == ["x", "open"] and [s.label for s in chart_.named] == ["open"]
