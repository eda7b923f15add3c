"""The packages import downwards only: `LAYERS` lists them from the top, as CONTRIBUTING.md does."""

import ast
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
    for name in ("errors.py", "files.py", "foreign.py"):
        modules = imported_modules((PACKAGE / name).read_text(encoding="utf-8"))
        assert not [module for module in modules if module.split(".")[1:2] and module.split(".")[1] in LAYERS]
