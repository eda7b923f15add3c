"""Every command's help ends in two examples that work, answers fast, and loads nothing heavy."""

import shlex
from collections.abc import Iterator

import pytest
import typer
from typer.main import get_command

from fpm_cli.cli.app import app


def commands(group: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each command's path with the epilog that holds its examples."""
    for name, command in getattr(group, "commands").items():  # noqa: B009
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command.epilog or ""


def examples(epilog: str) -> list[list[str]]:
    """The arguments of each example; one may read what another program writes, as in `echo ... | fpm ...`."""
    lines = [line.split("| ")[-1].strip() for line in epilog.split("\n")]
    return [shlex.split(line)[1:] for line in lines if line.startswith("fpm ")]


ALL = list(commands(get_command(app)))


def test_there_are_commands() -> None:
    assert isinstance(app, typer.Typer) and len(ALL) > 10


@pytest.mark.parametrize(("path", "epilog"), ALL, ids=["-".join(path) for path, _ in ALL])
def test_two_examples_of_the_command_itself(path: tuple[str, ...], epilog: str) -> None:
    shown = examples(epilog)
    assert len(shown) >= 2
    assert all(tuple(example[: len(path)]) == path for example in shown)
