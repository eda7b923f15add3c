"""What the torture rows share: a line each at the end of the run, which says how often and with what result.

A row is a file here. Its test takes a count from `counts(few, many)`: `make test` runs the few, `make
torture` the many, and `report("...")` adds the row's line to the summary.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.torture.scale import BUSY_SECONDS, SLACK_SECONDS

IN_MEMORY = Path("/dev/shm")
LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds one line to the summary that ends the run."""
    return request.config.stash.setdefault(LINES, []).append


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section("torture")
        for line in lines:
            terminalreporter.write_line(line)
