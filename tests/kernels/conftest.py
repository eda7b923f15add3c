"""Fixtures of the operator tests: the compiled library, and each instruction set this processor has."""

import ctypes

import pytest
import torch

from fpm_cli.errors import MissingError
from fpm_cli.ops.build import build, default_folder
from fpm_cli.ops.selection import INSTRUCTION_SETS, cpu_library, select


@pytest.fixture(scope="session")
def library():
    try:
        path = build(default_folder())
    except MissingError as error:
        pytest.skip(str(error))
    select("auto")
    loaded = cpu_library()
    assert loaded.is_loaded, loaded.reason
    return ctypes.CDLL(str(path))


@pytest.fixture(params=range(len(INSTRUCTION_SETS)), ids=INSTRUCTION_SETS)
def instruction_set(request, library):
    best = library.fpm_instruction_set()
    if library.fpm_use_instruction_set(request.param) != request.param:
        pytest.skip(f"this processor has no {INSTRUCTION_SETS[request.param]}")
    yield request.param
    library.fpm_use_instruction_set(best)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
