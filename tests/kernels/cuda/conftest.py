"""Compiled CUDA sources that the tests of this folder share."""

import platform
from collections.abc import Callable
from functools import cache

import pytest

from tests.kernels.cuda.emulated import COMPILER, Emulator, build

BuildEmulator = Callable[..., Emulator]


@pytest.fixture(scope="session")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> BuildEmulator:
    """`build` into a folder of the session, which compiles each source once."""
    if COMPILER is None or platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("the CUDA sources run on the CPU with g++ on x86-64 Linux")
    folder = tmp_path_factory.mktemp("emulated")

    @cache
    def build_once(source: str, threads: bool = False, defines: tuple[str, ...] = ()) -> Emulator:
        return build(source, folder, threads=threads, defines=defines)

    def emulator(source: str, *, faults: dict | None = None, **options) -> Emulator:
        return build(source, folder, faults=faults, **options) if faults else build_once(source, **options)

    return emulator
