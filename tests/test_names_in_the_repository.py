"""Environment variables and install commands that the repository's texts name are ones that exist."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import DISTRIBUTION, install_hint

ROOT = Path(__file__).parents[1]
FOLDERS = ("fpm_cli", "tests", "docs", "benchmarks", "presets")
SUFFIXES = {".py", ".toml", ".md", ".sh", ".j2"}
# Variables of the Fortran package manager, which is called fpm as well; tests set them.
FOREIGN = {"FPM_FC", "FPM_CC", "FPM_CXX", "FPM_AR", "FPM_FFLAGS", "FPM_CFLAGS", "FPM_CXXFLAGS", "FPM_LDFLAGS"}
VARIABLE = re.compile(r"\bFPM_[A-Z][A-Z0-9_]*\b")
CONFIGURATION = re.compile(r"FPM_([A-Z]+)__[A-Z0-9_]+")
PLACEHOLDER = "FPM_SECTION__KEY"  # in texts that explain the form
TESTED = Path(__file__).parent / "config/test_resolve.py"  # sets variables that are no configuration
EXTRA = re.compile(r"\bfpm(?:-depth)?\[([a-z-]+)")


def texts() -> Iterator[tuple[str, str]]:
    """Each text of the repository but this file and the history, by its path."""
    files = [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "demo.sh", "pyproject.toml")
    ]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    for path in sorted(files):
        if path not in (Path(__file__), TESTED):
            text = path.read_text(encoding="utf-8")
            yield str(path.relative_to(ROOT)), strings_and_comments(text) if path.suffix == ".py" else text


def strings_and_comments(source: str) -> str:
    """Python source without its identifiers, which may begin with any prefix."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(token.string for token in tokens if token.type != tokenize.NAME)


@cache
def macros() -> frozenset[str]:
    """Macros of the compiled operators, which have the same prefix."""
    sources = [path for path in (ROOT / "kernels").rglob("*") if path.suffix in {".h", ".cu", ".cpp", ".cuh"}]
    return frozenset(name for path in sources for name in VARIABLE.findall(path.read_text(encoding="utf-8")))


def unknown_variables(text: str) -> set[str]:
    """The `FPM_...` names in a text that fpm would not read as configuration."""
    named = set(VARIABLE.findall(text)) - FOREIGN - macros() - {PLACEHOLDER}
    return {
        name
        for name in named
        if not (key := CONFIGURATION.fullmatch(name)) or key[1].lower() not in RunConfig.model_fields
    }


def extras() -> set[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return set(tomllib.load(file)["project"]["optional-dependencies"])


def test_every_variable_with_the_prefix_of_the_configuration_is_a_configuration_key() -> None:
    unknown = {path: names for path, text in texts() if (names := unknown_variables(text))}
    assert not unknown


@pytest.mark.parametrize("planted", ["FPM_SLACK=3 make torture", "os.environ['FPM_TRIAN__LR']"])
def test_a_planted_unknown_variable_is_found(planted: str) -> None:
    assert unknown_variables(planted)


def test_install_commands_name_this_distribution_and_an_extra_that_exists() -> None:
    wrong = {
        path: found[0]
        for path, text in texts()
        for found in EXTRA.finditer(text)
        if not found[0].startswith(f"{DISTRIBUTION}[") or found[1] not in extras()
    }
    assert not wrong


def test_messages_hint_at_extras_that_exist() -> None:
    hinted = {
        argument.value
        for path in (ROOT / "fpm_cli").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == install_hint.__name__
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    assert {"lm-eval", "ray", "transformers"} <= hinted <= extras()
