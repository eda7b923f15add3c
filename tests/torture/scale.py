"""How often a torture row is run: a few times by default, many times by `make torture`."""

import pytest


def counts(few: int, many: int, *, param: str = "count") -> pytest.MarkDecorator:
    """Parametrises a test's `count`; the many carry the marker `torture`."""
    return pytest.mark.parametrize(param, [few, pytest.param(many, marks=pytest.mark.torture)])
