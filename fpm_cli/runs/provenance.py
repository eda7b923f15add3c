"""Which code a run is made with: fpm's git revision, and the versions of what it computes with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fpm_cli import __version__
from fpm_cli.errors import MissingError
from fpm_cli.programs import run_program

PACKAGES = ("torch", "deepspeed", "numpy", "tokenizers", "sentencepiece")


def git_revision(package: Path = Path(__file__).parents[1]) -> str | None:
    """The git revision of the checkout that fpm runs from.

    None where there is no git, and where the package does not lie at the top of a repository that tracks it:
    it may be installed inside a repository of the user's.
    """
    checkout = package.parent
    if not (checkout / ".git").exists():
        return None
    # Variables such as GIT_DIR, which git sets for its hooks, would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    git = ["git", "-C", str(checkout)]
    try:
        tracked = run_program(
            [*git, "ls-files", "--error-unmatch", f"{package.name}/__init__.py"], environment=environment
        )
        revision = run_program([*git, "rev-parse", "HEAD"], environment=environment)
    except MissingError:
        return None
    return revision.stdout.strip() if tracked.returncode == revision.returncode == 0 else None


def software_versions() -> dict[str, str]:
    """The versions of fpm, Python, and the packages that a run's numbers depend on."""
    versions = {"fpm": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # provided in another form, for instance by the system
            continue
    return versions
