"""Which implementation of an operator runs: the compiled one, or the reference in plain PyTorch.

The rule: compiled if `engine.kernels` is "auto", a library built for this torch, architecture and source is
there (`fpm kernels build`), and the tensor is on a device it has operators for and in float32, bfloat16 or
float16. The reference otherwise, which gives the same results up to rounding and drops the same elements.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fpm_cli.ops.build import OPERATORS, default_folder, library_path

Implementation = Literal["auto", "reference"]

COMPILED_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
INSTRUCTION_SETS = ("baseline", "AVX2", "AVX-512")  # as `kernels/common/cpu_dispatch.h` numbers them


@dataclass(frozen=True)
class CpuLibrary:
    """The state of the CPU operators in this process."""

    path: Path
    is_loaded: bool
    reason: str  # why it is not loaded; empty if it is
    instruction_set: str = ""


class _Selection:
    """What this process has chosen and loaded."""

    implementation: Implementation = "auto"
    folder: Path | None = None  # None: the default one
    cpu: CpuLibrary | None = None  # None: not looked for yet
    cpu_is_compiled = False  # what `is_compiled` reads


_selection = _Selection()
_loaded: dict[Path, CpuLibrary] = {}  # a library's operators can be registered once


def select(implementation: Implementation, folder: str | Path = "") -> None:
    """Choose for this process, as `engine.kernels` and `engine.kernels_folder` say.

    Args:
        implementation: "auto", or "reference" for plain PyTorch everywhere.
        folder: where `fpm kernels build` built; empty for the user's cache folder.
    """
    _selection.implementation = implementation
    _selection.folder = Path(folder) if folder else None
    _selection.cpu = None
    _selection.cpu_is_compiled = False


@contextmanager
def use_reference() -> Iterator[None]:
    """Run the reference implementations inside the block."""
    before = _selection.implementation, _selection.cpu_is_compiled
    _selection.implementation, _selection.cpu_is_compiled = "reference", False
    try:
        yield
    finally:
        _selection.implementation, _selection.cpu_is_compiled = before


def is_compiled(x: Tensor) -> bool:
    """Whether the compiled operators run on a tensor like `x`."""
    if not x.is_cpu or x.dtype not in COMPILED_DTYPES or _selection.implementation == "reference":
        return False
    if _selection.cpu is None:
        cpu_library()
    return _selection.cpu_is_compiled


def cpu_library() -> CpuLibrary:
    """Load the CPU operators if they are built, once per process, and say what came of it."""
    if _selection.cpu is None:
        path = library_path(_selection.folder or default_folder())
        _selection.cpu = _loaded.get(path) or _load(path)
        _selection.cpu_is_compiled = _selection.cpu.is_loaded and _selection.implementation == "auto"
    return _selection.cpu


def _load(path: Path) -> CpuLibrary:
    if not path.is_file():
        others = [each.name for each in path.parent.parent.glob("torch-*")]
        built = f"; built there: {', '.join(others)}" if others else ""
        return CpuLibrary(
            path, False, f"not built for this version (`fpm kernels build`): no {path.parent.name}{built}"
        )
    if _loaded:
        return CpuLibrary(path, False, f"this process has loaded {next(iter(_loaded))}")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return CpuLibrary(path, False, f"{path} does not load: {error}")
    instruction_set = INSTRUCTION_SETS[ctypes.CDLL(str(path)).fpm_instruction_set()]
    _loaded[path] = CpuLibrary(path, True, "", instruction_set)
    return _loaded[path]


@dataclass(frozen=True)
class OperatorImplementation:
    """One line of `fpm kernels list`."""

    operator: str
    device: str
    implementation: str
    reason: str


def implementations() -> list[OperatorImplementation]:
    """For each operator, what runs on this machine's CPU and why."""
    cpu = cpu_library()
    if cpu.is_loaded:
        name, reason = f"compiled ({cpu.instruction_set})", str(cpu.path)
    else:
        name, reason = "reference", cpu.reason
    return [OperatorImplementation(operator, "cpu", name, reason) for operator in OPERATORS]
