"""Registers and spills of the CUDA kernels, from nvcc's report, as the tables in `kernels/*/README.md`.

    python -m benchmarks.cuda_resources           # compile for every architecture and rewrite the tables
    python -m benchmarks.cuda_resources --check   # compile and compare only

Needs nvcc, and no GPU. Compiling everything takes minutes.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
OPERATORS = ("attention", "residual_norm", "bias_gelu", "dropout")
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100")
BEGIN, END = "<!-- cuda resources -->", "<!-- end of cuda resources -->"
TYPE_NAMES = {"__nv_bfloat16": "bfloat16", "__half": "half"}


@dataclass(frozen=True)
class Resources:
    """What one kernel uses on one architecture; sizes in bytes for each thread, `shared` for each block."""

    kernel: str
    architecture: str
    registers: int
    spilled: int
    stack: int
    shared: int  # declared in the source; what a launch adds is not known to the compiler

    def __str__(self) -> str:
        return f"{self.registers}" + (f" ({self.spilled} B spilled)" if self.spilled else "")


def nvcc() -> str | None:
    """CUDA's compiler, if there is one."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def compile_operator(
    operator: str, architectures: Iterable[str] = ARCHITECTURES, macros: Sequence[str] = ()
) -> list[Resources]:
    """Compile `kernels/OPERATOR/cuda.cu` and read what the assembler reports.

    Args:
        operator: a folder of `kernels/`.
        architectures: such as "sm_80".
        macros: such as "FPM_HEAD_SIZES=64".

    Raises:
        RuntimeError: the compiler fails or warns.
    """
    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("nvcc is not installed")
    targets = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            compiler,
            "-std=c++17",
            "-O3",
            "-Xptxas",
            "-v",
            *targets,
            *(f"-D{macro}" for macro in macros),
        ]
        command += ["-c", str(KERNELS / operator / "cuda.cu"), "-o", f"{folder}/cuda.o"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    report = process.stdout + process.stderr
    if process.returncode or re.search(r"\b(error|warning)\b", report):
        raise RuntimeError(report)
    return parse_report(_demangle(report, compiler))


def parse_report(report: str) -> list[Resources]:
    """The kernels of an `-Xptxas -v` report with demangled names, in the order of their names."""
    entry = re.compile(
        r"Compiling entry function '(?P<kernel>[^']+)' for '(?P<architecture>\w+)'"
        r".*?(?P<stack>\d+) bytes stack frame"
        r", (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
        r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    found = []
    for match in entry.finditer(report):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found.append(
            Resources(
                kernel=_label(match["kernel"]),
                architecture=match["architecture"],
                registers=int(match["registers"]),
                spilled=max(int(match["stores"]), int(match["loads"])),
                stack=int(match["stack"]),
                shared=int(shared[1]) if shared else 0,
            )
        )
    return sorted(
        found, key=lambda each: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", each.kernel)]
    )


def table(resources: Sequence[Resources]) -> str:
    """Registers for each thread: a row for each kernel, a column for each architecture."""
    cells = {(each.kernel, each.architecture): str(each) for each in resources}
    kernels = list(dict.fromkeys(each.kernel for each in resources))
    rows = [["kernel", *ARCHITECTURES], ["---", *("---:" for _ in ARCHITECTURES)]]
    rows += [[f"`{kernel}`", *(cells[kernel, name] for name in ARCHITECTURES)] for kernel in kernels]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def read_table(operator: str) -> dict[tuple[str, str], str]:
    """The cells of the table in an operator's README.md by kernel and architecture."""
    text = (KERNELS / operator / "README.md").read_text(encoding="utf-8")
    lines = text.split(BEGIN)[1].split(END)[0].strip().splitlines()
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]
    return {(row[0], name): cell for row in rows[2:] for name, cell in zip(rows[0][1:], row[1:], strict=True)}


def write_table(operator: str, resources: Sequence[Resources]) -> None:
    """Replace the table in an operator's README.md."""
    path = KERNELS / operator / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    text = f"{before}{BEGIN}\n{table(resources)}\n{END}{rest.split(END)[1]}"
    path.write_text(text, encoding="utf-8")


def _demangle(report: str, compiler: str) -> str:
    demangler = shutil.which("cu++filt", path=str(Path(compiler).resolve().parent)) or shutil.which("c++filt")
    if demangler is None:
        raise RuntimeError("neither cu++filt nor c++filt is installed")
    # Each name is demangled on its own: within quotes c++filt would leave it as it is.
    names = sorted(set(re.findall(r"_Z\w+", report)))
    plain = subprocess.run(
        [demangler, *names], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name, demangled in zip(names, plain, strict=True):
        report = report.replace(f"'{name}'", f"'{demangled}'")
    return report


def _label(kernel: str) -> str:
    """`name<type, numbers>` from a demangled signature."""
    name = re.search(r"(\w+)<", kernel)
    types = "|".join(["float", *TYPE_NAMES])
    first = re.search(rf"<(?:\(\w+\))?({types})\b", kernel)
    assert name is not None and first is not None, kernel
    numbers = re.findall(r"(?<=[ )])\d+(?=[,>])", kernel)
    return f"{name[1]}<{', '.join([TYPE_NAMES.get(first[1], first[1]), *numbers])}>"


def main() -> int:
    """Rewrite or check the tables; 1 if a table is not what the compiler says or a kernel spills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("operators", nargs="*", default=OPERATORS)
    options = parser.parse_args()
    wrong = False
    for operator in options.operators:
        resources = compile_operator(operator)
        wrong |= any(each.spilled for each in resources)
        if not options.check:
            write_table(operator, resources)
        cells = {(each.kernel, each.architecture): str(each) for each in resources}
        if cells != read_table(operator):
            print(f"kernels/{operator}/README.md does not say what the compiler says", file=sys.stderr)
            wrong = True
        print(
            f"{operator}: {len(resources)} kernels, at most {max(x.registers for x in resources)} registers"
        )
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
