"""Building the CUDA operators of `kernels/` with nvcc, beside the CPU operators; a GPU is not needed for it.

    FOLDER/cuda-torch-2.13.0+cu130-x86_64-0123456789abcdef/{fpm_cuda.so, architectures}

The library also builds and loads with a torch that has no CUDA, where it is of no use but can be checked.
"""

import hashlib
import importlib.metadata
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from fpm_cli.errors import FpmError, MissingError
from fpm_cli.ops.build import (
    Say,
    build_in_folder,
    kernels_dir,
    run_compiler,
    torch_folder,
    torch_version,
)

LIBRARY = "fpm_cuda.so"
OPERATORS = ("attention", "residual_norm", "bias_gelu", "dropout")  # the folders of `kernels/` with CUDA code
# A100; RTX 30 and A10; RTX 40 and L40; H100 and H200; B200. Newer GPUs compile the newest's PTX at loading.
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
# torch 2.13 is the first whose stable ABI gives the CUDA stream on which it works.
OLDEST_TORCH = (2, 13)
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020d000000000000"
NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden")
HOST_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden")


def cuda_library_path(folder: Path) -> Path:
    """Where the CUDA library that fits this torch and these sources is, or would be."""
    digest = hashlib.sha256()
    for path in sorted(kernels_dir().glob("*/*")):
        if path.suffix in (".cu", ".cuh", ".h") or path.name == "cuda_register.cpp":
            digest.update(f"{path.parent.name}/{path.name}".encode() + b"\0" + path.read_bytes())
    digest.update(repr([NVCC_FLAGS, HOST_FLAGS, TORCH_TARGET]).encode())
    name = f"cuda-torch-{torch_version()}-{platform.machine()}-{digest.hexdigest()[:16]}"
    return folder / name / LIBRARY


def built_architectures(library: Path) -> tuple[str, ...]:
    """What a library was built for; nothing if it is not there."""
    record = library.with_name("architectures")
    return tuple(record.read_text().split()) if library.is_file() and record.is_file() else ()


def build_cuda(
    folder: Path,
    *,
    architectures: Sequence[str] = ARCHITECTURES,
    operators: Sequence[str] = OPERATORS,
    say: Say = print,
) -> Path:
    """Build the CUDA operators unless a library that fits is there.

    Args:
        folder: the cache folder, made if need be.
        architectures: such as "sm_90"; minutes for all.
        operators: which of `OPERATORS`, for tests.
        say: is told what happens, a line at a time.

    Returns:
        The library.

    Raises:
        MissingError: there is no nvcc or no g++.
        FpmError: torch is too old, the folder cannot be written, or the compiler fails.
    """
    unknown = set(architectures) - set(ARCHITECTURES)
    if unknown:
        raise FpmError(
            f"unknown architecture {', '.join(sorted(unknown))}: expected some of {', '.join(ARCHITECTURES)}"
        )
    library = cuda_library_path(folder)

    def is_built() -> bool:
        return set(architectures) <= set(built_architectures(library))

    if is_built():
        say(f"already built: {library}")
        return library
    version = tuple(int(part) for part in importlib.metadata.version("torch").split(".")[:2])
    if version < OLDEST_TORCH:
        raise FpmError(
            f"torch {torch_version()} is too old: the CUDA operators need torch "
            f"{'.'.join(map(str, OLDEST_TORCH))} or newer"
        )
    nvcc, host = _find("nvcc", "/usr/local/cuda/bin/nvcc"), _find("g++", "c++")

    def compile_into(out: Path) -> None:
        say(f"compiling {len(operators)} operators with {nvcc} for {', '.join(architectures)} ...")
        objects = []
        for operator in operators:
            objects += _compile(operator, nvcc, host, architectures, out)
        libraries = [f"-L{torch_folder() / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        run_compiler([nvcc, "-shared", "-cudart", "static", "-o", str(out / LIBRARY), *objects, *libraries])
        for path in objects:
            Path(path).unlink()
        (out / "architectures").write_text(" ".join(architectures) + "\n")

    return build_in_folder(library, is_built, compile_into, say)


def _compile(operator: str, nvcc: str, host: str, architectures: Sequence[str], out: Path) -> list[str]:
    """Compile an operator's device code and its registration; the objects."""
    source = kernels_dir() / operator
    device, registration = str(out / f"{operator}.o"), str(out / f"{operator}.register.o")
    targets = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
    newest = max(architectures, key=lambda name: int(name.removeprefix("sm_"))).replace("sm", "compute")
    targets.append(f"-gencode=arch={newest},code={newest}")
    run_compiler([nvcc, *NVCC_FLAGS, *targets, "-c", str(source / "cuda.cu"), "-o", device])
    torch_flags = ["-isystem", str(torch_folder() / "include"), TORCH_TARGET]
    run_compiler(
        [host, *HOST_FLAGS, *torch_flags, "-c", str(source / "cuda_register.cpp"), "-o", registration]
    )
    return [device, registration]


def _find(*names: str) -> str:
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        raise MissingError(
            f"no {names[0]}: the CUDA operators are compiled with the CUDA toolkit's nvcc and with g++; "
            "until then the reference implementations run on GPUs"
        )
    return path
