"""`fpm kernels`: build the compiled operators, and say for each which implementation runs here and why."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fpm_cli.cli.console import JsonFlag, show, show_json, stderr_console
from fpm_cli.cli.numbers import MAX_PROCESSES

app = typer.Typer(help="The compiled operators: build them, list them.", no_args_is_help=True)

FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="Where built operators lie, if not in the user's cache folder."),
]


@app.command("build", epilog="Examples:\n\n  fpm kernels build\n\n  fpm kernels build --compiler g++-12")
def build_kernels(
    folder: FolderOption = None,
    compiler: Annotated[str | None, typer.Option(envvar="CXX", help="GCC's C++ compiler.")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_PROCESSES, help="Compilers at a time; one per core if left out."),
    ] = None,
    cuda: Annotated[
        bool, typer.Option("--cuda", help="Also compile the CUDA operators, with nvcc; needs no GPU.")
    ] = False,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            "--arch", help="With --cuda: for this GPU architecture only, such as sm_90; may be repeated."
        ),
    ] = None,
) -> None:
    """Compile the CPU operators for this machine's torch: half a minute; with CUDA operators, minutes."""
    from fpm_cli.ops.build import build, default_folder
    from fpm_cli.ops.build_cuda import ARCHITECTURES, build_cuda

    console = stderr_console()

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    build(folder or default_folder(), compiler=compiler, jobs=jobs, say=say)
    if cuda:
        build_cuda(folder or default_folder(), architectures=arch or ARCHITECTURES, say=say)


@app.command("list", epilog="Examples:\n\n  fpm kernels list\n\n  fpm kernels list --json")
def list_kernels(folder: FolderOption = None, as_json: JsonFlag = False) -> None:
    """Say for each operator which implementation runs here and why."""
    from fpm_cli.ops.selection import implementations, select

    select("auto", str(folder or ""))
    rows = implementations()
    if as_json:
        show_json("kernels-list", {"operators": [vars(row) for row in rows]})
        return
    table = Table("operator", "device", "runs", "why")
    for row in rows:
        table.add_row(row.operator, row.device, row.implementation, row.reason)
    show(table)


@app.command("bench", epilog="Examples:\n\n  fpm kernels bench\n\n  fpm kernels bench --threads 1 --json")
def bench_kernels(
    folder: FolderOption = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_PROCESSES, help="torch's threads; default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=MAX_PROCESSES, help="Timings of each, in turns.")] = 9,
    gpu: Annotated[bool, typer.Option("--gpu", help="The CUDA operators, on the first GPU.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time each operator beside PyTorch's own, forward and backward, with the memory bandwidth it reaches."""
    import torch

    from fpm_cli.errors import MissingError
    from fpm_cli.launch.placement import keep_freed_memory
    from fpm_cli.ops.bench import SHAPES, time_shapes
    from fpm_cli.ops.selection import cpu_library, cuda_library, select

    select("auto", str(folder or ""))
    library = cuda_library() if gpu else cpu_library()
    if not library.is_loaded:
        raise MissingError(library.reason)
    keep_freed_memory(large_blocks=True)
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    timings = time_shapes(SHAPES, threads=threads or torch.get_num_threads(), rounds=rounds, device=device)
    if as_json:
        show_json("kernels-bench", {"timings": [vars(timing) for timing in timings]})
        return
    table = Table("operator", "shape", "ms", "PyTorch's ms", "ratio", "MB moved", "share of bandwidth")
    for timing in timings:
        table.add_row(
            *(timing.operator, timing.shape),
            *(f"{1000 * timing.compiled_seconds:.3f}", f"{1000 * timing.composed_seconds:.3f}"),
            *(f"{timing.ratio:.2f}x", f"{timing.num_bytes / 1e6:.1f}", f"{timing.bandwidth_share:.0%}"),
        )
    show(table)
