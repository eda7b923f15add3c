"""Values for shell completion: names of presets, devices, tasks and tokenizers, and run folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from fpm_cli.accounting.devices import device_names
from fpm_cli.config.presets import preset_names
from fpm_cli.config.schema import TokenizerKind
from fpm_cli.corpus.options import SOURCES
from fpm_cli.runs.run import RUNS


def complete_preset(incomplete: str) -> list[str]:
    """Presets that begin with the text."""
    return _beginning_with(incomplete, preset_names())


def complete_device(incomplete: str) -> list[str]:
    """Devices that begin with the text."""
    return _beginning_with(incomplete, device_names())


def complete_kind(incomplete: str) -> list[str]:
    """Kinds of tokenizers that begin with the text."""
    return _beginning_with(incomplete, get_args(TokenizerKind))


def complete_source(incomplete: str) -> list[str]:
    """Sources of `fpm build-corpus` that begin with the text."""
    return _beginning_with(incomplete, SOURCES)


def complete_task(incomplete: str) -> list[str]:
    """Tasks that begin with the text, and TOML files that define one."""
    from fpm_cli.tasks.definition import task_names

    files = [str(path) for path in Path().glob(f"{incomplete}*.toml")] if "*" not in incomplete else []
    return [*_beginning_with(incomplete, task_names()), *sorted(files)]


def complete_run(incomplete: str) -> list[str]:
    """Run folders under `runs/` and beside the text, and folders that lead to others."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    folders = {RUNS, folder} if not incomplete or str(RUNS).startswith(incomplete) else {folder}
    children = sorted(child for parent in folders if parent.is_dir() for child in parent.iterdir())
    matching = [path for path in children if path.is_dir() and str(path).startswith(incomplete)]
    runs = [str(path) for path in matching if (path / "config.toml").is_file()]
    return runs or [f"{path}/" for path in matching if not path.name.startswith(".")]


def _beginning_with(incomplete: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
