"""How often a torture row is run: a few times by default, many times by `make torture`."""

from typing import Any

import pytest


def counts(few: Any, many: Any, *, param: str = "count") -> pytest.MarkDecorator:
    """Parametrises a test's `count`; the many carry the marker `torture`."""
    many_ = pytest.param(many, marks=pytest.mark.torture, id="many")
    return pytest.mark.parametrize(param, [pytest.param(few, id="few"), many_])
