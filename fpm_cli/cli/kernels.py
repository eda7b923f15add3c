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
) -> None:
    """Compile the CPU operators for this machine's torch: about half a minute."""
    from fpm_cli.ops.build import build, default_folder

    console = stderr_console()
    build(
        folder or default_folder(),
        compiler=compiler,
        jobs=jobs,
        say=lambda line: console.print(line, markup=False, soft_wrap=True),
    )


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
