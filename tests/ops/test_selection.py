"""Which implementation runs: the rule, and that both give the same results in the same process."""

import pytest
import torch

from fpm_cli.errors import MissingError
from fpm_cli.ops import selection
from fpm_cli.ops.build import build, default_folder
from fpm_cli.ops.gelu import bias_gelu
from fpm_cli.ops.selection import cpu_library, is_compiled, select, use_reference


@pytest.fixture(autouse=True)
def built():
    try:
        build(default_folder(), say=lambda line: None)
    except MissingError as error:
        pytest.skip(str(error))
    select("auto")
    yield
    select("auto")


def test_compiled_operators_run_on_the_cpu_in_three_precisions():
    assert cpu_library().is_loaded
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert is_compiled(torch.empty(1, dtype=dtype))
    assert not is_compiled(torch.empty(1, dtype=torch.float64))
    assert not is_compiled(torch.empty(1, device="meta"))


def test_the_reference_runs_where_it_is_selected():
    x = torch.empty(1)
    select("reference")
    assert not is_compiled(x)
    select("auto")
    with use_reference():
        with use_reference():
            assert not is_compiled(x)
        select("auto")
        assert not is_compiled(x)
    assert is_compiled(x)


def test_another_folder_without_a_build_gives_the_reference(tmp_path):
    select("auto", str(tmp_path))
    assert not is_compiled(torch.empty(1))
    assert "not built" in cpu_library().reason


def test_float64_and_compiled_results_agree():
    x = torch.randn(4, 8, requires_grad=True)
    y = bias_gelu(x, None, tanh=True)
    assert "BiasGelu" in type(y.grad_fn).__name__
    exact = bias_gelu(x.double(), None, tanh=True)
    assert "BiasGelu" not in type(exact.grad_fn).__name__
    torch.testing.assert_close(y, exact.float())


def test_implementations_name_each_operator_once():
    rows = selection.implementations()
    names = [row.operator for row in rows if row.device == "cpu"]
    assert len(names) == len(set(names)) >= 4
    assert all(row.implementation.startswith("compiled (") for row in rows if row.device == "cpu")
