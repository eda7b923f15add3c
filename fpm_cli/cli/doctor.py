"""`fpm doctor`: versions, devices, compilers, and what works on this machine, for an issue report."""

import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table

from fpm_cli import __version__
from fpm_cli.cli.console import JsonFlag, show, show_json

EXAMPLES = "Examples:\n\n  fpm doctor\n\n  fpm doctor --json"
PACKAGES = (
    *("torch", "deepspeed", "tokenizers", "sentencepiece", "jieba", "nltk", "datasets"),
    *("pydantic", "typer", "numpy", "safetensors", "transformers"),
)
COMPILE_SECONDS = 1800.0  # longer than any operator of DeepSpeed takes
GIB = 2**30


def doctor(as_json: JsonFlag = False) -> None:
    """Show versions and devices, and check what works on this machine."""
    facts, checks = _versions_and_devices(), _checks()
    if as_json:
        show_json("doctor", {**facts, "checks": checks})
        return
    table = Table("what", "found", title="this machine")
    for name, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), text)
    for check in checks:
        table.add_row(check["name"], f"{'works' if check['works'] else 'does not work'}: {check['detail']}")
    show(table)


def _versions_and_devices() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    return {
        "fpm": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory.total / GIB, 1),
        "memory_available_gib": round(memory.available / GIB, 1),
        "disk_free_gib": round(shutil.disk_usage(".").free / GIB, 1),
        "packages": {name: _version(name) for name in PACKAGES},
        "compilers": {name: _compiler(name) for name in ("c++", "nvcc", "ninja")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _compiler(name: str) -> str:
    if shutil.which(name) is None:
        return "not found"
    shown = subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout
    lines = shown.strip().split("\n")
    return next((line for line in lines if "release" in line), lines[0])


def _checks() -> list[dict[str, Any]]:
    """Run each check; a failure is a result here, not an error."""
    results = []
    checks = {"GPU": _gpu, "process group": _process_group, "DeepSpeed step": _step, "compilation": _locks}
    for name, check in checks.items():
        try:
            results.append({"name": name, "works": True, "detail": check()})
        except Exception as error:
            results.append({"name": name, "works": False, "detail": f"{type(error).__name__}: {error}"})
    return results


def _gpu() -> str:
    from fpm_cli import cuda

    if not cuda.count():
        raise RuntimeError("torch finds none; training runs on the CPU")
    return ", ".join(cuda.name(index) for index in range(cuda.count()))


def _process_group() -> str:
    from fpm_cli.engine.world import distributed_world

    with distributed_world(60.0) as world:
        return f"{world.size} process on {world.device_name}"


def _locks() -> str:
    """A process killed while torch compiles an operator leaves a lock; later ones wait for it forever."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    oldest = time.time() - COMPILE_SECONDS
    stale = [str(lock) for lock in root.glob("**/lock") if lock.stat().st_mtime < oldest]
    if stale:
        raise RuntimeError(f"left by a killed compilation, to be removed: {', '.join(stale)}")
    return "no lock of a killed compilation; training on the CPU compiles nothing"


def _step() -> str:
    import torch

    from fpm_cli.config.resolve import resolve
    from fpm_cli.engine.deepspeed_engine import TrainingEngine
    from fpm_cli.engine.world import distributed_world
    from fpm_cli.models.build import build_model

    tiny = ("model.num_layers=2", "train.global_batch=2", "train.sequence_length=16")
    config = resolve("CPM-X-S", proxy=True, environment={}, assignments=tiny).config
    with distributed_world(60.0) as world:
        tokens = torch.arange(32, device=world.device).view(2, 16)
        batch = {"tokens": tokens, "labels": tokens + 1, "loss_mask": torch.ones(2, 16, device=world.device)}
        engine = TrainingEngine(build_model(config, world.device), config, world)
        first, second = (engine.step([batch], 1e-2).loss for _ in range(2))
    if not second < first:
        raise RuntimeError(f"the loss went from {first:.3f} to {second:.3f}")
    return f"the loss of a two-layer GPT fell from {first:.3f} to {second:.3f}"
