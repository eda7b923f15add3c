"""What the torture rows share.

A row is a file here. Its test takes a count from `counts(few, many)`: `make test` runs the few, `make
torture` the many. A test of one size has the marker `row` and is run by both. `report("...")` adds the row's
line to the summary.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.scale import BUSY_SECONDS, SLACK_SECONDS

IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def slack(request: pytest.FixtureRequest) -> float:
    """By how many seconds a bound on time may be exceeded."""
    return SLACK_SECONDS if request.node.get_closest_marker("torture") else BUSY_SECONDS


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such a thing: for tests that need no disk, only many files."""
    if not IN_MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=IN_MEMORY, prefix="fpm-") as folder:
        yield Path(folder)
