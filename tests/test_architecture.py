"""The packages import downwards only, and no file imports itself through others.

`LAYERS` lists the packages from the top, as CONTRIBUTING.md does.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fpm_cli"
LAYERS = (
    "cli",
    "study",
    "reports",
    "tasks",
    "interop",
    "inference",
    "engine",
    "launch",
    "checkpoints",
    "models",
    "ops",
    "objectives",
    "corpus",
    "tokenization",
    "accounting",
    "runs",
    "config",
)


def imported_modules(source: str) -> set[str]:
    """The modules of fpm_cli that a source file imports, at its top or inside a function."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {module for module in modules if module.split(".")[0] == "fpm_cli"}


def upward_imports(layer: str, modules: set[str]) -> list[str]:
    """Those of `modules` that lie in a layer above `layer`."""
    above = LAYERS[: LAYERS.index(layer)]
    return sorted(module for module in modules if module.split(".")[1:2] and module.split(".")[1] in above)


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


MODULES = sorted(path for layer in LAYERS for path in (PACKAGE / layer).rglob("*.py"))


def test_every_package_has_a_layer() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(LAYERS)


@pytest.mark.parametrize("layer", sorted({layer_of(path) for path in MODULES}))
def test_no_import_points_upwards(layer: str) -> None:
    found = {
        str(path.relative_to(PACKAGE)): upwards
        for path in MODULES
        if layer_of(path) == layer
        and (upwards := upward_imports(layer, imported_modules(path.read_text(encoding="utf-8"))))
    }
    assert not found


def test_an_upward_import_is_found() -> None:
    source = "def load():\n    from fpm_cli.engine import train\n"
    assert upward_imports("models", imported_modules(source)) == ["fpm_cli.engine", "fpm_cli.engine.train"]
    assert upward_imports("tasks", imported_modules(source)) == []


def test_modules_outside_the_packages_import_no_package() -> None:
    for name in (
        *("encodings.py", "errors.py", "files.py", "foreign.py", "progress.py", "progress_bars.py"),
        "streams.py",
    ):
        modules = imported_modules((PACKAGE / name).read_text(encoding="utf-8"))
        assert not [module for module in modules if module.split(".")[1:2] and module.split(".")[1] in LAYERS]


def imported_files(source: str, files: dict[str, Path]) -> set[Path]:
    """Those of `files` (module name to path) that a source file imports, at its top or inside a function."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {name if name in files else node.module for name in submodules}
    return {files[module] for module in modules if module in files}


def files_in_circles(imports: dict[Path, set[Path]]) -> list[Path]:
    """The files that import one another in circles, and those between two circles."""
    remaining = {file: set(others) for file, others in imports.items()}
    while True:
        imported = set().union(*remaining.values()) if remaining else set()
        outside = {file for file, others in remaining.items() if not others or file not in imported}
        if not outside:
            break
        remaining = {file: others - outside for file, others in remaining.items() if file not in outside}
    return sorted(remaining)


def test_no_file_imports_itself_through_others() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    files = {
        ".".join(("fpm_cli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in paths
    }
    circles = files_in_circles(
        {path: imported_files(path.read_text(encoding="utf-8"), files) for path in paths}
    )
    assert not [str(path.relative_to(PACKAGE)) for path in circles]


def test_an_import_circle_is_found() -> None:
    sources = {
        "fpm_cli.a": "def load():\n    from fpm_cli import b\n",
        "fpm_cli.b": "from fpm_cli.c import name\n",
        "fpm_cli.c": "import fpm_cli.a\n",
        "fpm_cli.d": "from fpm_cli.a import load\n",
    }
    files = {module: Path(f"{module}.py") for module in sources}
    imports = {files[module]: imported_files(source, files) for module, source in sources.items()}
    assert files_in_circles(imports) == [files[f"fpm_cli.{name}"] for name in "abc"]


def imported_test_modules(source: str) -> list[str]:
    """The test modules that a source of tests names in an import, in code that it hands on as text too."""
    return re.findall(r"(?:from|import) (tests\.(?:\w+\.)*test_\w+)", source)


def test_no_test_module_is_imported() -> None:
    found = {
        str(path.name): modules
        for path in sorted(PACKAGE.parent.joinpath("tests").rglob("*.py"))
        if path != Path(__file__) and (modules := imported_test_modules(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_an_imported_test_module_is_found() -> None:
    assert imported_test_modules("from tests.engine.test_train import rows\n") == ["tests.engine.test_train"]
    assert imported_test_modules("from tests.small_runs import start\n") == []


def test_the_packages_of_contributing_are_those_of_the_architecture_test() -> None:
    listed = re.findall(
        r"^\| `fpm_cli/(\w+)/`", (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M
    )
    assert [package for package in listed if package in LAYERS] == list(LAYERS)
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} <= set(listed)
