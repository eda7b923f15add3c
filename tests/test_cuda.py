"""One file asks torch about GPUs, so that the tests can stand in for a machine that has some."""

import re
from pathlib import Path

import pytest
import torch

from fpm_cli import cuda
from tests.fake_gpus import FakeGpus

ROOT = Path(__file__).parents[1]
GPU_CALLS = re.compile(r"torch\.cuda|torch\.accelerator|torch\.version\.cuda|pynvml|nvmlInit")


def files_that_ask_torch() -> list[str]:
    paths = [*ROOT.joinpath("fpm_cli").rglob("*.py"), *ROOT.joinpath("benchmarks").glob("*.py")]
    return sorted(
        str(path.relative_to(ROOT))
        for path in paths
        if any(GPU_CALLS.search(line) for line in _code_lines(path.read_text(encoding="utf-8")))
    )


def _code_lines(source: str) -> list[str]:
    """Without comments and without what stands in backquotes."""
    return [re.sub(r"`[^`]*`", "", line.split("#")[0]) for line in source.split("\n")]


def test_one_file_asks_torch_about_gpus() -> None:
    assert files_that_ask_torch() == ["fpm_cli/cuda.py"]


def test_a_call_is_found_and_a_mention_is_not() -> None:
    source = "x = torch.cuda.device_count()\n# torch.cuda\n'''`torch.cuda` is elsewhere'''"
    assert [bool(GPU_CALLS.search(line)) for line in _code_lines(source)] == [True, False, False]


def test_the_stand_in_replaces_every_function(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"query", "to_device"}  # which call the others, and take any device
    functions = {name: value for name, value in vars(cuda).items() if callable(value)}
    FakeGpus(2, free_bytes=7).install(monkeypatch)
    assert {name for name, value in functions.items() if getattr(cuda, name) is value} == kept
    assert cuda.query() == {"count": 2, "free_bytes": 7, "has_native_bf16": True}


def test_this_machine_is_asked_without_an_error() -> None:
    assert cuda.query()["count"] == torch.cuda.device_count()
    assert cuda.default_device().type == ("cuda" if torch.cuda.device_count() else "cpu")
