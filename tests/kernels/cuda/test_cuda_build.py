"""The CUDA operators build without a GPU and register with a torch that has no CUDA."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fpm_cli.errors import FpmError, MissingError
from fpm_cli.ops import build_cuda as module
from fpm_cli.ops.build_cuda import (
    ARCHITECTURES,
    OPERATORS,
    build_cuda,
    built_architectures,
    cuda_library_path,
)
from fpm_cli.ops.schemas import SCHEMAS
from tests.kernels.cuda.emulated import KERNELS

REGISTERED = {
    "dropout": ["dropout"],
    "residual_norm": [
        *("residual_norm", "residual_norm_backward"),
        *("norm", "norm_backward", "residual", "residual_backward"),
    ],
    "bias_gelu": ["bias_gelu", "bias_gelu_backward", "gated_gelu", "gated_gelu_backward"],
    "attention": ["attention", "attention_backward"],
}
LIST_REGISTERED = """
import sys
import torch
import fpm_cli.ops.schemas
torch.ops.load_library(sys.argv[1])
for name in sys.argv[2:]:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fpm::{name}", "CUDA"), name
"""


TORCHS = {"linear", "linear_input_grad", "linear_weight_grad"}  # torch.mm runs on GPUs


def test_each_raw_operator_has_a_cuda_registration() -> None:
    names = set(re.findall(r"^(\w+)\(", SCHEMAS, re.MULTILINE))
    sources = [(KERNELS / operator / "cuda_register.cpp").read_text() for operator in OPERATORS]
    registered = {name for source in sources for name in re.findall(r'm\.impl\("(\w+)"', source)}
    assert registered == names - TORCHS == {name for each in REGISTERED.values() for name in each}


def assert_registers(library: Path, operators: tuple[str, ...]) -> None:
    names = [name for operator in operators for name in REGISTERED[operator]]
    process = subprocess.run(
        [sys.executable, "-c", LIST_REGISTERED, str(library), *names], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr


@pytest.fixture
def needs_nvcc() -> None:
    try:
        module._find("nvcc", "/usr/local/cuda/bin/nvcc")
    except MissingError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("needs_nvcc")
def test_one_operator_builds_and_registers(tmp_path: Path) -> None:
    said: list[str] = []
    options = {"architectures": ["sm_90"], "operators": ("dropout",)}
    library = build_cuda(tmp_path, **options, say=said.append)
    assert library == cuda_library_path(tmp_path)
    assert built_architectures(library) == ("sm_90",)
    assert {path.name for path in library.parent.iterdir()} == {"fpm_cuda.so", "architectures"}
    assert_registers(library, ("dropout",))


@pytest.mark.long
@pytest.mark.usefixtures("needs_nvcc")
def test_all_operators_build_for_all_architectures_and_register(tmp_path: Path) -> None:
    library = build_cuda(tmp_path)
    assert built_architectures(library) == ARCHITECTURES
    assert_registers(library, OPERATORS)
    said: list[str] = []
    assert build_cuda(tmp_path, architectures=["sm_90"], say=said.append) == library
    assert said == [f"already built: {library}"]


def test_without_nvcc_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(MissingError, match="no nvcc"):
        build_cuda(tmp_path)


def test_an_older_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "2.12.1+cu130")
    with pytest.raises(FpmError, match=r"need torch 2\.13 or newer"):
        build_cuda(tmp_path)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FpmError, match="unknown architecture sm_75"):
        build_cuda(tmp_path, architectures=["sm_75", "sm_90"])
