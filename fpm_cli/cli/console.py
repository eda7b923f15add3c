"""Where text goes: the result to stdout, the log and the progress to stderr."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

# One flag, the same words on every verb.
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]


@dataclass
class Verbosity:
    """What `--quiet` and `--debug` decide, set once by the application's callback."""

    quiet: bool = False
    debug: bool = False


verbosity = Verbosity()


def stderr_console() -> Console:
    """A console for the log; made on use, so that redirected streams and NO_COLOR are seen."""
    return Console(stderr=True, quiet=verbosity.quiet, highlight=False)


def log(message: str) -> None:
    """One line for the reader's information, on stderr; silent under `--quiet`."""
    stderr_console().print(message, markup=False, soft_wrap=True)


def show(table: Table | str) -> None:
    """Print a result that a person reads, on stdout. Wide tables keep their width when piped."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if isinstance(table, str):
        console.print(table, markup=False, soft_wrap=True)
    else:
        console.print(table)


def in_words(values: Mapping[str, float | None]) -> str:
    """Measured values in a line; metrics.jsonl has null, which is None here, for what was not finite."""
    texts = {name: "not finite" if value is None else f"{value:.4f}" for name, value in values.items()}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in texts.items())


def show_json(verb: str, document: Mapping[str, Any]) -> None:
    """Print the one JSON document of a verb: `schema` is `fpm.<verb>/1`, then the document's keys.

    Non-finite numbers are refused: JSON has none.
    """
    import json

    text = json.dumps({"schema": f"fpm.{verb}/1", **document}, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write(text + "\n")
