"""Writes docs/verbs.md from the command line itself, when the site is built or by `python docs/verbs.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from fpm_cli.cli.app import app
from fpm_cli.cli.verb_groups import VERBS

PAGE = Path(__file__).with_name("verbs.md")
HEAD = """# Every verb

Generated from the command line by `docs/verbs.py`; a test executes every example. Every verb also has
`--help`, and nearly every one `--json`: one document on stdout whose `schema` names its kind. Before the
verb, `--quiet` prints neither log nor progress, and `--debug` the traceback of an error.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 missing data, tokenizer or dependency, 4 does not
fit in memory, 5 training diverged, 6 checkpoint or corpus damaged or mismatched, 75 stopped by a signal and
resumable, 130 interrupted.
"""


def reference() -> str:
    """The page: a heading for each group, and below it a section for each command."""
    root: Any = get_command(app)
    context = root.make_context("fpm", [], resilient_parsing=True)
    parts = [HEAD]
    for group, verbs in VERBS.items():
        parts.append(f"\n## {group}\n")
        for name in verbs:
            command = root.get_command(context, name)
            parts += [section(path, each) for path, each in leaves((name,), command, context)]
    return "".join(parts)


def leaves(path: tuple[str, ...], command: Any, context: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The command, or each of those below it."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name in command.list_commands(context):
        yield from leaves((*path, name), command.get_command(context, name), context)


def section(path: tuple[str, ...], command: Any) -> str:
    """Heading, description, arguments and options, and the examples of the help."""
    title = f"\n### fpm {' '.join(path)}\n\n{paragraphs(command.help)}\n"
    rows = [row(parameter) for parameter in command.params if getattr(parameter, "help", None)]
    head = ["| argument or option | meaning |", "|---|---|"] if rows else []
    examples = [line.strip() for line in command.epilog.split("\n") if "fpm " in line]
    return "\n".join([title, *head, *rows, "", "```text", *examples, "```", ""])


def paragraphs(text: str) -> str:
    """The help text, each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def row(parameter: Any) -> str:
    """One line of the table."""
    is_option = parameter.param_type_name == "option"
    names = ", ".join(f"`{name}`" for name in parameter.opts) if is_option else f"`{metavar(parameter)}`"
    return f"| {names} | {cell(parameter.help)} |"


def metavar(parameter: Any) -> str:
    """The argument's name as the usage line has it."""
    return str(parameter.metavar or parameter.name.upper().strip("_"))


def cell(text: str) -> str:
    """A text in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def on_pre_build(config: Any) -> None:
    """MkDocs calls this before it reads the pages."""
    text = reference()
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:  # else `mkdocs serve` builds for ever
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
