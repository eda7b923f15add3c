import pytest

from fpm_cli.errors import MissingError
from fpm_cli.ops.build import build, default_folder
from fpm_cli.ops.selection import cpu_library, select


@pytest.fixture
def compiled() -> None:
    """The compiled operators are built and selected; the test is skipped where there is no compiler."""
    try:
        build(default_folder())
    except MissingError as error:
        pytest.skip(str(error))
    select("auto")
    assert cpu_library().is_loaded, cpu_library().reason
