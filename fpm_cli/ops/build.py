"""Building the compiled operators of `kernels/`, ahead of their use, in a folder that names what they fit.

    FOLDER/torch-2.13.0+cpu-x86_64-0123456789abcdef/fpm_cpu.so

The folder's name holds torch's version, the architecture and a hash of sources and flags, so that only a
library that fits is loaded. A build happens in a temporary folder under a lock and is renamed when it is
complete; what a killed build left is removed by the next. torch is not imported here.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

import fpm_cli
from fpm_cli.errors import FpmError, MissingError

LIBRARY = "fpm_cpu.so"
# The folders of `kernels/` with CPU code.
OPERATORS = ("attention", "residual_norm", "bias_gelu", "dropout", "linear")
COMPILERS = ("g++", "c++")
# The vector extensions the sources are written with: GCC's. Versions below are known not to have all of them.
OLDEST_GCC = 9
COMMON_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
    "-Wno-psabi",  # vectors are passed between functions of one file only
)
# Each operator is compiled once per instruction set; which one runs is decided when the library is loaded.
X86_FLAGS = {
    "avx512": (
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
}
# The stable ABI of torch 2.10: the oldest with all functions that are called.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"

Say = Callable[[str], None]


@dataclass(frozen=True)
class CompileUnit:
    """One call of the compiler: a source, and the flags that only it gets."""

    source: Path
    flags: tuple[str, ...]
    object_name: str


def kernels_dir() -> Path:
    """The sources: inside the package in a wheel, by way of a link in a checkout."""
    return Path(fpm_cli.__file__).parent / "kernels"


def default_folder() -> Path:
    """`fpm/kernels` in the user's cache folder: $XDG_CACHE_HOME, or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "fpm" / "kernels"


def build_name() -> str:
    """The name of the folder of a library that fits this torch, this architecture and these sources."""
    digest = hashlib.sha256()
    for path in sorted(kernels_dir().glob("*/*")):
        if path.suffix in (".h", ".cpp") and not path.name.startswith("cuda"):
            digest.update(f"{path.parent.name}/{path.name}".encode() + b"\0" + path.read_bytes())
    digest.update(repr([COMMON_FLAGS, X86_FLAGS, TORCH_TARGET]).encode())
    return f"torch-{torch_version()}-{platform.machine()}-{digest.hexdigest()[:16]}"


def torch_version() -> str:
    """The version of the torch that would be imported."""
    return importlib.metadata.version("torch")


def library_path(folder: Path) -> Path:
    """Where the library that fits is, or would be."""
    return folder / build_name() / LIBRARY


def is_built(folder: str = "") -> bool:
    """Whether there is a library that fits; an empty folder is the default one."""
    return library_path(Path(folder) if folder else default_folder()).is_file()


def build(folder: Path, *, compiler: str | None = None, jobs: int | None = None, say: Say = print) -> Path:
    """Build the CPU operators unless a library that fits is there.

    Args:
        folder: the cache folder, made if need be.
        compiler: GCC's C++ compiler; `g++` or `c++` on the path otherwise.
        jobs: compilers at the same time; one per core this process may use otherwise.
        say: is told what happens, a line at a time.

    Returns:
        The library.

    Raises:
        MissingError: there is no compiler.
        FpmError: the folder cannot be written, or the compiler fails or is too old.
    """
    library = library_path(folder)
    if library.is_file():
        say(f"already built: {library}")
        return library
    command = _find_compiler(compiler)
    workers = jobs or len(os.sched_getaffinity(0))
    return build_in_folder(library, library.is_file, lambda out: _compile(command, out, workers, say), say)


def build_in_folder(
    library: Path, is_built: Callable[[], bool], compile_into: Callable[[Path], None], say: Say
) -> Path:
    """Build a library in a temporary folder, under the lock of the cache folder, and rename that into place.

    Args:
        library: FOLDER/NAME/FILE; what is there and does not suffice is replaced.
        is_built: whether another process has built it while this one waited for the lock.
        compile_into: fills a folder.
        say: is told what happens, a line at a time.

    Returns:
        `library`.

    Raises:
        FpmError: the cache folder cannot be written, or the compiler fails.
    """
    folder = library.parent.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, say):
            if is_built():
                say(f"built meanwhile: {library}")
                return library
            _remove_leftovers(folder)
            temporary = folder / f".{library.parent.name}.{os.getpid()}.tmp"
            temporary.mkdir()
            try:
                compile_into(temporary)
                if library.parent.exists():
                    shutil.rmtree(library.parent)
                temporary.rename(library.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FpmError(
            f"{folder}: cannot build there: {error.strerror or error}; set XDG_CACHE_HOME or "
            "engine.kernels_folder to a folder that can be written"
        ) from error
    say(f"built {library}")
    return library


def _find_compiler(wanted: str | None) -> str:
    names = (wanted,) if wanted else COMPILERS
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        raise MissingError(
            f"no C++ compiler ({' or '.join(names)}): install GCC, for example `apt install g++`; until then "
            "the reference implementations run"
        )
    macros = subprocess.run(
        [path, "-dM", "-E", "-x", "c++", "/dev/null"], capture_output=True, text=True, check=False
    ).stdout
    values = dict(line.split(" ", 2)[1:] for line in macros.splitlines() if line.count(" ") >= 2)
    version = int(values.get("__GNUC__", "0"))
    if "__clang__" in values or version < OLDEST_GCC:
        kind = "Clang" if "__clang__" in values else f"GCC {version}" if version else "no GCC"
        raise FpmError(
            f"{path} is {kind}, and the operators need GCC {OLDEST_GCC} or newer: "
            "`fpm kernels build --compiler g++-12` names another"
        )
    return path


@contextmanager
def _locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the lock of the folder, which the system frees when its holder dies; a file names the holder."""
    path = folder / "build.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = (folder / "build.holder").read_text() if (folder / "build.holder").is_file() else "another"
        say(f"waiting: {holder} builds in {folder}")
        lock.acquire()
    try:
        (folder / "build.holder").write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        (folder / "build.holder").unlink(missing_ok=True)
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed builds left; only the lock's holder builds."""
    for path in folder.glob(".*torch-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _compile(compiler: str, out: Path, jobs: int, say: Say) -> None:
    units = compile_units()
    say(f"compiling {len(units)} files with {compiler} ({jobs} at a time) ...")

    def compile_one(unit: CompileUnit) -> Path:
        target = out / unit.object_name
        run_compiler([compiler, *COMMON_FLAGS, *unit.flags, "-c", str(unit.source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(jobs) as pool:
        objects = [str(path) for path in pool.map(compile_one, units)]
    libraries = [f"-L{torch_folder() / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    run_compiler([compiler, "-shared", "-o", str(out / LIBRARY), *objects, *libraries])
    for path in objects:
        Path(path).unlink()


def compile_units() -> list[CompileUnit]:
    """Every file to compile: the code of an operator once per instruction set, its registration once."""
    sources = kernels_dir()
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    instruction_sets: dict[str, tuple[str, ...]] = {"baseline": (), **(X86_FLAGS if is_x86 else {})}
    shared = (*(("-DFPM_X86",) if is_x86 else ()), f"-I{sources / 'common'}")
    torch_flags = ("-isystem", str(torch_folder() / "include"), TORCH_TARGET, "-O2")
    units = [CompileUnit(sources / "common" / "cpu_dispatch.cpp", shared, "cpu_dispatch.o")]
    for operator in OPERATORS:
        registration, code = sources / operator / "cpu_register.cpp", sources / operator / "cpu.cpp"
        units.append(CompileUnit(registration, (*shared, *torch_flags), f"{operator}.register.o"))
        units.extend(
            CompileUnit(code, (*shared, *flags, f"-DFPM_ISA={name}"), f"{operator}.{name}.o")
            for name, flags in instruction_sets.items()
        )
    return units


def torch_folder() -> Path:
    """Where torch is installed, found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise MissingError("torch is not installed")
    return Path(spec.origin).parent


def run_compiler(command: list[str]) -> None:
    """Run a compiler, whose first errors are those of the FpmError that is raised if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [
            line for line in result.stderr.splitlines() if "error" in line
        ] or result.stderr.splitlines()
        detail = "\n".join(errors[:5])
        raise FpmError(f"{' '.join(command)}\nfails with status {result.returncode}:\n{detail}")
