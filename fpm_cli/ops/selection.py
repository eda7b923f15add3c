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
    folder = ""  # empty: the default one
    num_reference_blocks = 0  # of `use_reference` that are open
    cpu: CpuLibrary | None = None  # None: not looked for yet


_selection = _Selection()
_loaded: dict[Path, CpuLibrary] = {}  # a library's operators can be registered once


def select(implementation: Implementation, folder: str = "") -> None:
    """Choose for this process, as `engine.kernels` and `engine.kernels_folder` say.

    Args:
        implementation: "auto", or "reference" for plain PyTorch everywhere.
        folder: where `fpm kernels build` built; empty for the user's cache folder.
    """
    _selection.implementation = implementation
    if folder != _selection.folder:
        _selection.folder, _selection.cpu = folder, None


@contextmanager
def use_reference() -> Iterator[None]:
    """Run the reference implementations inside the block, whatever is selected."""
    _selection.num_reference_blocks += 1
    try:
        yield
    finally:
        _selection.num_reference_blocks -= 1


def is_compiled(x: Tensor) -> bool:
    """Whether the compiled operators run on a tensor like `x`."""
    if not x.is_cpu or x.dtype not in COMPILED_DTYPES:
        return False
    if _selection.implementation == "reference" or _selection.num_reference_blocks:
        return False
    return (_selection.cpu or cpu_library()).is_loaded


def cpu_library() -> CpuLibrary:
    """Load the CPU operators if they are built, once per process, and say what came of it."""
    if _selection.cpu is None:
        path = library_path(Path(_selection.folder) if _selection.folder else default_folder())
        _selection.cpu = _loaded.get(path) or _load(path)
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
