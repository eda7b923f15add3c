"""The errors that are reported to the user, each with its exit code.

A message says in a line or two what is wrong, where, and the likely remedy. `fpm_cli.cli.app.main` prints it
and exits with `exit_status`; any other exception is a bug and exits with 1.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FpmError(Exception):
    """A failure whose message is addressed to the user."""

    exit_status = 1


class UsageError(FpmError):
    """A wrong flag, value or configuration key."""

    exit_status = 2


class MissingError(FpmError):
    """Missing data, a missing tokenizer or a missing dependency."""

    exit_status = 3


class OutOfMemoryError(FpmError):
    """The model does not fit into the available memory."""

    exit_status = 4


class DivergedError(FpmError):
    """Training diverged: a loss or a state is not finite."""

    exit_status = 5


class DamagedError(FpmError):
    """A checkpoint, corpus or tokenizer is damaged, or does not match what it is used with."""

    exit_status = 6


class StoppedError(FpmError):
    """A signal stopped the work after its state was saved; it can be resumed."""

    exit_status = 75


MAX_SUGGESTIONS = 4
DISTRIBUTION = "fpm-depth"  # the name on an index, where `fpm` is the Fortran package manager


def install_hint(extra: str) -> str:
    """The command that installs an optional dependency of fpm, such as `pip install 'fpm-depth[ray]'`.

    It works for a wheel and for a checkout that was installed with `pip install --editable .`; `extra` is a
    key of `[project.optional-dependencies]` in pyproject.toml.
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known names, or an empty string.

    In this order: a name that differs only in case; all names with `wrong` as prefix (`A100` suggests
    `A100-40` and `A100-80`); dotted names with `wrong` as last part (`lr` suggests `train.lr`); the most
    similar name.
    """
    by_lower = {name.lower(): name for name in known}
    lower = wrong.lower()
    if lower in by_lower:
        nearest = [lower]
    else:
        nearest = (
            [name for name in by_lower if lower and name.startswith(lower)]
            or [name for name in by_lower if name.endswith(f".{lower}")]
            or get_close_matches(lower, by_lower, n=1, cutoff=0.6)
        )
    names = [repr(by_lower[name]) for name in nearest[:MAX_SUGGESTIONS]]
    return f"; did you mean {' or '.join(names)}?" if names else ""
