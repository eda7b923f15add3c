"""What the torture rows share: a line each at the end of the run, which says how often and with what result.

A row is a file here. Its test takes a count from `counts(few, many)`: `make test` runs the few, `make
torture` the many, and `report("...")` adds the row's line to the summary.
"""

from collections.abc import Callable

import pytest

LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds one line to the summary that ends the run."""
    return request.config.stash.setdefault(LINES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section("torture")
        for line in lines:
            terminalreporter.write_line(line)
