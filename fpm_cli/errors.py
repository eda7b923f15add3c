"""The errors a user can meet, each with the exit status that scripts rely on.

An error says what, where and the likely mend, in a line or two. `fpm_cli.cli.app.main` prints it
and exits with `exit_status`; everything else that is raised is a bug and exits 1.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FpmError(Exception):
    """Something failed, and the message is meant for the user."""

    exit_status = 1


class UsageError(FpmError):
    """A wrong flag, value or configuration key."""

    exit_status = 2


class MissingError(FpmError):
    """Data, a tokenizer or a dependency that is not there."""

    exit_status = 3


class OutOfMemoryError(FpmError):
    """The model does not fit into the memory at hand."""

    exit_status = 4


class DivergedError(FpmError):
    """Training produced a non-finite loss or state."""

    exit_status = 5


class DamagedError(FpmError):
    """A checkpoint, corpus or tokenizer is damaged, or does not match what it is used with."""

    exit_status = 6


class StoppedError(FpmError):
    """A signal stopped the work after a saved state; it can be resumed."""

    exit_status = 75


MOST_SUGGESTIONS = 4
DISTRIBUTION = "fpm-depth"  # the name on an index, where `fpm` is the Fortran package manager


def install_hint(extra: str) -> str:
    """The command that installs an optional dependency of fpm, such as `pip install 'fpm-depth[ray]'`.

    It works for a wheel and for a checkout that was installed with `pip install --editable .`; `extra` is a
    key of `[project.optional-dependencies]` in pyproject.toml.
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known names, or an empty string.

    A name that differs in case only is the nearest; then all names that the wrong one begins, so that `A100`
    finds both `A100-40` and `A100-80`; then a dotted name that ends in it, as `train.lr` in `lr`; then the
    most similar one.
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
    names = [repr(by_lower[name]) for name in nearest[:MOST_SUGGESTIONS]]
    return f"; did you mean {' or '.join(names)}?" if names else ""
