"""The colours of the report pages have the contrast that WCAG 2.1 asks of text, light and dark."""

import re
from itertools import product
from pathlib import Path

import pytest

import fpm_cli.reports

STYLE = (Path(fpm_cli.reports.__file__).parent / "templates/base.html.j2").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
)


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.1."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_black_on_white_is_21_to_1() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_4_5_to_1_and_lines_have_3_to_1(scheme: dict[str, str]) -> None:
    for text, ground in product(("text", "muted"), ("background", "panel", "warning")):
        assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
    for line in ("c1", "c2", "c3", "c4"):
        assert contrast(scheme[line], scheme["background"]) >= 3, line
