"""Fixtures of all tests, and the summary lines of the torture tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fpm_cli.config.resolve import resolve
from fpm_cli.corpus.samples import build_sample_corpus
from fpm_cli.errors import MissingError
from fpm_cli.ops.build import build, default_folder
from fpm_cli.ops.selection import cpu_library, select, use_reference
from tests.preloaded import Preloaded, preloaded_process

ROW = "row"  # the user property of a test that is a line of the summary


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Adds a line to the summary of the session: how often something was done, with what result."""
    return lambda line: record_property(ROW, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    calls = [report for report in reports if isinstance(report, pytest.TestReport) and report.when == "call"]
    lines = [
        f"{'' if call.passed else 'FAILED: '}{line}"
        for call in sorted(calls, key=lambda call: call.nodeid)
        for name, line in call.user_properties
        if name == ROW
    ]
    if lines:
        terminalreporter.section("rows")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data beside the checkout, `<repository>/../shared/data`; without it, its tests are skipped."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside this checkout")
    return folder


@pytest.fixture(scope="session")
def sample_corpora(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The sample corpus of a preset's tokenizer, built once for all presets that share it."""
    folder, built = tmp_path_factory.mktemp("corpora"), dict[str, Path]()

    def corpus(name: str) -> Path:
        config = resolve(name, proxy=True, environment={}).config
        if config.tokenizer not in built:
            built[config.tokenizer] = folder / config.tokenizer
            build_sample_corpus(config, built[config.tokenizer])
        return built[config.tokenizer]

    return corpus


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    """Runs `fpm` in processes that start without the seconds of importing torch and DeepSpeed."""
    with preloaded_process() as process:
        yield process


@pytest.fixture
def compiled() -> None:
    """The compiled operators are built and selected; the test is skipped where there is no compiler."""
    try:
        build(default_folder())
    except MissingError as error:
        pytest.skip(str(error))
    select("auto")
    assert cpu_library().is_loaded, cpu_library().reason


@pytest.fixture
def reference() -> Iterator[None]:
    """PyTorch's own operators run, whether the compiled ones are built or not."""
    with use_reference():
        yield
