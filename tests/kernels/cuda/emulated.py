"""Runs the CUDA sources on the CPU: builds them with g++ against `emulation/` and calls their launchers.

Two forms: `build` gives fibres under AddressSanitizer and the checks of alignment, which is fast and stops at
the first access out of bounds; `build(..., threads=True)` gives real threads under ThreadSanitizer, which
names the lines of a race.
"""

import ctypes
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "kernels"
COMPILER = shutil.which("g++")
TYPE_NUMBERS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # ElementType in common/launch.cuh

FIBRES = ("-fsanitize=address,alignment,bounds", "-fno-sanitize-recover=all", "-g1")
THREADS = ("-fsanitize=thread", "-DEMULATE_WITH_THREADS", "-g")


class EmulationFailed(Exception):
    """What the emulation or a sanitizer reported."""


@dataclass(frozen=True)
class Emulator:
    """The launchers of one CUDA source, run on the CPU."""

    executable: Path

    def call(
        self,
        launcher: str,
        arguments: ctypes.Structure,
        tensors: Mapping[str, Tensor | None],
        *,
        order: str = "forward",
        shift: int = 0,
        timeout_seconds: float = 120,
    ) -> dict[str, Tensor]:
        """Call a launcher with the given tensors' memory.

        Args:
            launcher: its name.
            arguments: its argument structure with all numbers set.
            tensors: by pointer field of the structure; with any strides, outputs too; None is a null pointer.
            order: of blocks and threads: "forward", "reverse", or a seed.
            shift: how many bytes each tensor lies behind a multiple of 16.
            timeout_seconds: how long it may take.

        Returns:
            What the tensors hold afterwards, with the same shapes and strides.

        Raises:
            EmulationFailed: with the report of the emulation or of a sanitizer.
        """
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        parts = [struct.pack("q", ctypes.sizeof(arguments)), bytes(arguments), struct.pack("q", len(given))]
        for name, tensor in given.items():
            memory = _memory(tensor)
            num_bytes = memory.numel() * memory.element_size()
            parts += [struct.pack("qqq", getattr(type(arguments), name).offset, num_bytes, shift)]
            parts += [_bytes(memory)]
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "input"), Path(folder, "output")
            source.write_bytes(b"".join(parts))
            process = subprocess.run(
                [self.executable, launcher, source, target],
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                env={**os.environ, "EMULATION_ORDER": order, "ASAN_OPTIONS": "detect_leaks=0"},
            )
            if process.returncode:
                raise EmulationFailed(process.stderr or f"exit code {process.returncode}")
            data = target.read_bytes()
        results, position = {}, 0
        for name, tensor in given.items():
            memory = _memory(tensor)
            num_bytes = memory.numel() * memory.element_size()
            raw = bytearray(data[position : position + num_bytes])
            position += num_bytes
            flat = torch.frombuffer(raw, dtype=tensor.dtype) if raw else memory.clone()
            results[name] = flat.as_strided(tensor.shape, tensor.stride())
        return results


def build(
    source: str,
    folder: Path,
    *,
    threads: bool = False,
    defines: Sequence[str] = (),
    faults: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> Emulator:
    """Compile a CUDA source for the CPU.

    Args:
        source: its path below `kernels/`.
        folder: where to build; objects of the emulation itself are kept there for the next source.
        threads: real threads under ThreadSanitizer instead of fibres under AddressSanitizer.
        defines: macros, `NAME=VALUE`.
        faults: by path below `kernels/`, replacements (old text, new text) that are made in a copy.

    Raises:
        EmulationFailed: with the compiler's messages.
    """
    kernels = KERNELS
    folder.mkdir(parents=True, exist_ok=True)
    name = source.replace("/", "-") + "".join(defines)
    if faults:
        kernels = Path(tempfile.mkdtemp(dir=folder)) / "kernels"
        shutil.copytree(KERNELS, kernels)
        name = f"{kernels.parent.name}-{name}"
        for path, replacements in faults.items():
            text = (kernels / path).read_text()
            for old, new in replacements:
                assert text.count(old) >= 1, f"{path} does not contain {old!r}"
                text = text.replace(old, new, 1)
            (kernels / path).write_text(text)
    form = "threads" if threads else "fibres"
    flags = ["-std=c++20", "-Wall", *(THREADS if threads else FIBRES), f"-I{HERE / 'emulation'}"]
    objects = []
    for part in ("emulation.cpp", "driver.cpp"):
        compiled = folder / f"{form}-{part}.o"
        if not compiled.exists():
            _compile([*flags, "-O1", "-c", str(HERE / "emulation" / part), "-o", str(compiled)])
        objects.append(str(compiled))
    executable = folder / f"{form}-{name}"
    macros = [f"-D{define}" for define in defines]
    inputs = ["-x", "c++", str(kernels / source), "-x", "none", *objects]
    optimization = "-O0" if faults else "-O1"  # a planted fault runs once: compile quickly
    _compile([*flags, optimization, *macros, *inputs, "-rdynamic", "-ldl", "-o", str(executable)])
    return Emulator(executable)


def unwritten(like: Tensor) -> Tensor:
    """A tensor of the same shape, strides and type that holds NaN."""
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).fill_(torch.nan)


def _compile(arguments: list[str]) -> None:
    assert COMPILER is not None
    process = subprocess.run([COMPILER, *arguments], capture_output=True, text=True)
    if process.returncode:
        raise EmulationFailed(process.stderr)


def _memory(tensor: Tensor) -> Tensor:
    """The elements from a view's first to its last, as one row."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((extent if tensor.numel() else 0,), (1,))


def _bytes(memory: Tensor) -> bytes:
    return memory.contiguous().view(torch.uint8).numpy().tobytes() if memory.numel() else b""


def structure(text: str) -> type[ctypes.Structure]:
    """A ctypes structure from a C struct's fields, so that the header is the only place that lists them."""
    kinds = {"int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "double": ctypes.c_double}
    fields: list[tuple[str, type]] = []
    for declaration in text.split(";"):
        words = declaration.split()
        if not words:
            continue
        pointer = "*" in declaration
        kind = ctypes.c_void_p if pointer else kinds[words[0]]
        names = declaration.split("*")[1:] if pointer else [declaration.split(maxsplit=1)[1]]
        for field in ",".join(names).split(","):
            name, _, length = field.strip().partition("[")
            fields.append((name, kind * int(length.rstrip("]")) if length else kind))
    return type("Arguments", (ctypes.Structure,), {"_fields_": fields})


def structure_of(header: str, name: str) -> type[ctypes.Structure]:
    """The structure `name` of a header below `kernels/`."""
    text = (KERNELS / header).read_text()
    body = text.split(f"struct {name} {{")[1].split("};")[0]
    return structure("\n".join(line.split("//")[0] for line in body.splitlines()))
