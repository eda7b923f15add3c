"""Which implementation of an operator runs: the compiled one, or the reference in plain PyTorch.

The rule: compiled if `engine.kernels` is "auto", a library built for this torch, architecture and source is
there (`fpm kernels build`, for GPUs `fpm kernels build --cuda`), and the tensor is on a device it has
operators for, in float32, bfloat16 or float16, and on a GPU no larger than the CUDA operators' limits. The
reference otherwise, which gives the same results up to rounding and drops the same elements.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fpm_cli import cuda
from fpm_cli.ops.build import OPERATORS, default_folder, library_path
from fpm_cli.ops.build_cuda import OPERATORS as CUDA_OPERATORS
from fpm_cli.ops.build_cuda import built_architectures, cuda_library_path

Implementation = Literal["auto", "reference"]

COMPILED_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
# Rows of `residual_norm` and heads of `attention` beyond these have no CUDA kernel.
CUDA_MAX_WIDTH = 8192
CUDA_MAX_HEAD_SIZE = 128
UNTRIED = "no one has run the CUDA operators on a GPU yet"
INSTRUCTION_SETS = ("baseline", "AVX2", "AVX-512")  # as `kernels/common/cpu_dispatch.h` numbers them


@dataclass(frozen=True)
class CpuLibrary:
    """The state of the CPU operators in this process."""

    path: Path
    is_loaded: bool
    reason: str  # why it is not loaded; empty if it is
    instruction_set: str = ""


@dataclass(frozen=True)
class CudaLibrary:
    """The state of the CUDA operators in this process."""

    path: Path
    is_loaded: bool
    reason: str  # why it is not loaded; empty if it is
    architectures: tuple[str, ...] = ()  # what it was built for


class _Selection:
    """What this process has chosen and loaded."""

    implementation: Implementation = "auto"
    folder = ""  # empty: the default one
    num_reference_blocks = 0  # of `use_reference` that are open
    cpu: CpuLibrary | None = None  # None: not looked for yet
    cuda: CudaLibrary | None = None


_selection = _Selection()
_loaded: dict[Path, CpuLibrary] = {}  # a library's operators can be registered once
_loaded_cuda: dict[Path, CudaLibrary] = {}


def select(implementation: Implementation, folder: str = "") -> None:
    """Choose for this process, as `engine.kernels` and `engine.kernels_folder` say.

    Args:
        implementation: "auto", or "reference" for plain PyTorch everywhere.
        folder: where `fpm kernels build` built; empty for the user's cache folder.
    """
    _selection.implementation = implementation
    if folder != _selection.folder:
        _selection.folder, _selection.cpu, _selection.cuda = folder, None, None


@contextmanager
def use_reference() -> Iterator[None]:
    """Run the reference implementations inside the block, whatever is selected."""
    _selection.num_reference_blocks += 1
    try:
        yield
    finally:
        _selection.num_reference_blocks -= 1


def is_compiled(x: Tensor, *, width: int = 0, head_size: int = 0) -> bool:
    """Whether the compiled operators run on a tensor like `x`.

    Args:
        x: an input.
        width: of the rows that are normalised, if any are.
        head_size: of the attention, if there is one.
    """
    if x.dtype not in COMPILED_DTYPES:
        return False
    if _selection.implementation == "reference" or _selection.num_reference_blocks:
        return False
    if x.is_cpu:
        return (_selection.cpu or cpu_library()).is_loaded
    if not x.is_cuda or width > CUDA_MAX_WIDTH or head_size > CUDA_MAX_HEAD_SIZE:
        return False
    return (_selection.cuda or cuda_library()).is_loaded


def cpu_library() -> CpuLibrary:
    """Load the CPU operators if they are built, once per process, and say what came of it."""
    if _selection.cpu is None:
        path = library_path(_folder())
        _selection.cpu = _loaded.get(path) or _load(path)
    return _selection.cpu


def cuda_library() -> CudaLibrary:
    """Load the CUDA operators if they are built and torch has a GPU for them, and say what came of it."""
    if _selection.cuda is None:
        path = cuda_library_path(_folder())
        _selection.cuda = _loaded_cuda.get(path) or _load_cuda(path)
    return _selection.cuda


def _folder() -> Path:
    return Path(_selection.folder) if _selection.folder else default_folder()


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


def _load_cuda(path: Path) -> CudaLibrary:
    architectures = built_architectures(path)
    if not architectures:
        return CudaLibrary(path, False, f"not compiled (`fpm kernels build --cuda`): no {path.parent.name}")
    compiled = f"compiled for {', '.join(architectures)}"
    if not cuda.count():
        why = "torch finds no GPU" if cuda.torch_version() else "this torch has no CUDA"
        return CudaLibrary(path, False, f"{compiled}, but {why}", architectures)
    capability = cuda.capability()
    if not runs_on(architectures, capability):
        gpu = f"sm_{capability[0]}{capability[1]}"
        return CudaLibrary(path, False, f"{compiled}, but the GPU is {gpu}", architectures)
    if _loaded_cuda:
        return CudaLibrary(path, False, f"this process has loaded {next(iter(_loaded_cuda))}", architectures)
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return CudaLibrary(path, False, f"{path} does not load: {error}", architectures)
    _loaded_cuda[path] = CudaLibrary(path, True, "", architectures)
    return _loaded_cuda[path]


def runs_on(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether code for `architectures` and PTX of the newest runs on a GPU of a compute capability.

    Machine code runs on the same major version with an equal or higher minor one, PTX on every newer GPU.
    """
    built = [divmod(int(name.removeprefix("sm_")), 10) for name in architectures]
    same_major = any(major == capability[0] and minor <= capability[1] for major, minor in built)
    return same_major or max(built) < capability


@dataclass(frozen=True)
class OperatorImplementation:
    """One line of `fpm kernels list`."""

    operator: str
    device: str
    implementation: str
    reason: str


def implementations() -> list[OperatorImplementation]:
    """For each operator, what runs on this machine's CPU and GPUs and why."""
    cpu, cuda = cpu_library(), cuda_library()
    if cpu.is_loaded:
        name, reason = f"compiled ({cpu.instruction_set})", str(cpu.path)
    else:
        name, reason = "reference", cpu.reason
    on_gpu = f"compiled ({', '.join(cuda.architectures)})" if cuda.is_loaded else "reference"
    why = f"{cuda.path if cuda.is_loaded else cuda.reason}; {UNTRIED}"
    return [
        *(OperatorImplementation(operator, "cpu", name, reason) for operator in OPERATORS),
        *(OperatorImplementation(operator, "cuda", on_gpu, why) for operator in CUDA_OPERATORS),
    ]
