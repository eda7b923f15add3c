"""Calling other programs: git, ssh, sbatch, compilers. None of them has to be installed."""

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence

from fpm_cli.errors import MissingError


def run_program(
    command: Sequence[str],
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program until it ends; its output is read as UTF-8, and other bytes are replaced.

    Args:
        command: the program and its arguments.
        stdin: what it reads; by default nothing, so that it never waits for the terminal.
        environment: its whole environment; by default this process's.
        timeout_seconds: after which it is killed.

    Raises:
        MissingError: there is no such program, or it cannot be executed.
        subprocess.TimeoutExpired: it did not end in time.
    """
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            env=environment,
            timeout=timeout_seconds,
        )
    except OSError as error:
        raise MissingError(f"{command[0]}: cannot be run here ({error.strerror or error})") from error


def find_missing(programs: Iterable[str]) -> list[str]:
    """Those of `programs` that are not on the PATH."""
    return [program for program in programs if shutil.which(program) is None]
