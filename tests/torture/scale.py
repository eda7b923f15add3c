"""How often a torture row is run: a few times by default, many times by `make torture`.

The default tests run anywhere, also where others keep the machine busy, so a row's bound on time is wide
there. `make torture` holds it to the letter; `TORTURE_SLACK=3 make torture` allows three seconds more.
"""

import os
from typing import Any

import pytest

BUSY_SECONDS = 60.0
SLACK_SECONDS = float(os.environ.get("TORTURE_SLACK", "0"))


def counts(few: Any, many: Any, *, param: str = "count") -> pytest.MarkDecorator:
    """Parametrises a test's `count`; the many carry the marker `torture`."""
    many_ = pytest.param(many, marks=pytest.mark.torture, id="many")
    return pytest.mark.parametrize(param, [pytest.param(few, id="few"), many_])
