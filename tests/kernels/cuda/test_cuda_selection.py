"""When the CUDA operators run, and what `fpm kernels list` says of them."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from fpm_cli.cli.app import app
from fpm_cli.config.presets import preset_names
from fpm_cli.config.resolve import resolve
from fpm_cli.ops import selection
from fpm_cli.ops.build_cuda import OPERATORS, cuda_library_path
from fpm_cli.ops.selection import (
    CUDA_MAX_HEAD_SIZE,
    CUDA_MAX_WIDTH,
    CudaLibrary,
    is_compiled,
    runs_on,
    select,
    use_reference,
)
from tests.kernels.cuda.emulated import KERNELS


@pytest.fixture
def on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tensor that says it is on a GPU, where the CUDA operators count as loaded."""
    select("auto", str(tmp_path))
    loaded = CudaLibrary(cuda_library_path(tmp_path), True, "", ("sm_90",))
    monkeypatch.setitem(selection._loaded_cuda, loaded.path, loaded)
    with FakeTensorMode():
        yield lambda *shape, dtype=torch.bfloat16: torch.empty(*shape, dtype=dtype, device="cuda")
    select("auto")


def test_compiled_operators_run_where_they_are_loaded_and_have_a_kernel(on_a_gpu) -> None:
    assert is_compiled(on_a_gpu(2, 128))
    assert is_compiled(on_a_gpu(2, 128), width=CUDA_MAX_WIDTH, head_size=CUDA_MAX_HEAD_SIZE)
    assert not is_compiled(on_a_gpu(2, 128), width=CUDA_MAX_WIDTH + 1)
    assert not is_compiled(on_a_gpu(2, 128), head_size=CUDA_MAX_HEAD_SIZE + 1)
    assert not is_compiled(on_a_gpu(2, 128, dtype=torch.float64))
    with use_reference():
        assert not is_compiled(on_a_gpu(2, 128))
    assert is_compiled(on_a_gpu(2, 128))


def test_what_is_not_built_does_not_run(tmp_path: Path) -> None:
    select("auto", str(tmp_path))
    with FakeTensorMode():
        assert not is_compiled(torch.empty(2, 2, device="cuda"))
    select("auto")


def test_the_limits_are_those_of_the_sources() -> None:
    sizes = re.search(r"#define FPM_HEAD_SIZES ([\d, ]+)", (KERNELS / "attention" / "cuda.cu").read_text())
    width = re.search(r"kMaxWidth = (\d+)", (KERNELS / "residual_norm" / "cuda.cu").read_text())
    assert sizes is not None and width is not None
    assert max(int(size) for size in sizes[1].split(",")) == CUDA_MAX_HEAD_SIZE
    assert int(width[1]) == CUDA_MAX_WIDTH


@pytest.mark.parametrize("preset", preset_names())
def test_the_limits_hold_every_preset(preset: str) -> None:
    model = resolve(preset, environment={}).config.model
    assert model.head_size <= CUDA_MAX_HEAD_SIZE and model.hidden_size <= CUDA_MAX_WIDTH


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("sm_80",), (8, 0), True),
        (("sm_80",), (8, 6), True),
        (("sm_86",), (8, 0), False),
        (("sm_80", "sm_86", "sm_90"), (7, 5), False),
        (("sm_80", "sm_90"), (12, 0), True),
        (("sm_100",), (9, 0), False),
    ],
)
def test_code_runs_on_equal_major_versions_and_ptx_on_newer_gpus(
    architectures: tuple[str, ...], capability: tuple[int, int], runs: bool
) -> None:
    assert runs_on(architectures, capability) == runs


@pytest.mark.parametrize("is_built", [False, True])
def test_the_list_says_whether_they_are_compiled_and_that_no_one_has_run_them(
    tmp_path: Path, is_built: bool
) -> None:
    if is_built:
        library = cuda_library_path(tmp_path)
        library.parent.mkdir(parents=True)
        library.touch()
        library.with_name("architectures").write_text("sm_80 sm_90\n")
    result = CliRunner().invoke(app, ["kernels", "list", "--folder", str(tmp_path), "--json"])
    select("auto")
    rows = [row for row in json.loads(result.stdout)["operators"] if row["device"] == "cuda"]
    assert [row["operator"] for row in rows] == list(OPERATORS)
    for row in rows:
        assert row["implementation"] == "reference"
        assert ("compiled for sm_80, sm_90, but" if is_built else "not compiled") in row["reason"]
        assert "no one has run the CUDA operators on a GPU yet" in row["reason"]
