"""The named presets: small TOML files over their family's base, found in a checkout or a wheel."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import fpm_cli
from fpm_cli.errors import UsageError, did_you_mean

Tree = dict[str, Any]


def presets_dir() -> Path:
    """The folder of preset files: inside an installed wheel, or beside the package in a checkout."""
    package = Path(fpm_cli.__file__).parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"


@cache
def preset_names() -> tuple[str, ...]:
    """The names of all presets, sorted by family, language and name as the files are."""
    return tuple(sorted(path.stem for path in presets_dir().glob("*.toml")))


def read_toml(path: Path) -> Tree:
    """Read one TOML file.

    Raises:
        UsageError: it is not valid TOML or not UTF-8; names the file and the place.
        FileNotFoundError: there is no such file.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error


def preset_layers(name: str) -> list[tuple[str, Tree]]:
    """The layers of a preset, weakest first, each with the file it came from.

    Raises:
        UsageError: no preset has that name; names the nearest one.
    """
    if name not in preset_names():
        hint = did_you_mean(name, preset_names()) or "; `fpm presets list` shows all twenty"
        raise UsageError(f"no preset is called {name!r}{hint}")
    own = read_toml(presets_dir() / f"{name}.toml")
    base = own.pop("base")
    own["name"] = name
    return [
        (f"presets/base/{base}.toml", read_toml(presets_dir() / "base" / f"{base}.toml")),
        (f"presets/{name}.toml", own),
    ]
