"""The compiled matrix products of linear layers against float64, with torch's own error as the measure."""

import pytest
import torch

from fpm_cli.ops.linear import MAX_ELEMENTS, linear, linear_input_grad, linear_weight_grad
from fpm_cli.ops.schemas import LINEAR, LINEAR_INPUT_GRAD, LINEAR_WEIGHT_GRAD
from tests.operator_comparison import assert_as_accurate

SIZES = [(1, 16, 16), (7, 48, 112), (8, 64, 64), (129, 64, 192), (300, 112, 48), (513, 256, 1024)]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_products_are_as_accurate_as_torchs(instruction_set, rows, inputs, outputs):
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    grad, added = torch.randn(rows, outputs), torch.randn(rows, inputs)
    wide = [tensor.double() for tensor in (x, weight, bias, grad, added)]

    def composed(x, weight, bias, grad, added):
        return [
            torch.addmm(bias, x, weight.t()),
            x @ weight.t(),
            grad @ weight,
            added + grad @ weight,
            grad.t() @ x,
        ]

    ours = [
        LINEAR(x, weight, bias),
        LINEAR(x, weight, None),
        LINEAR_INPUT_GRAD(grad, weight, None),
        LINEAR_INPUT_GRAD(grad, weight, added.clone()),
        LINEAR_WEIGHT_GRAD(grad, x),
    ]
    assert_as_accurate(ours, composed(x, weight, bias, grad, added), composed(*wide))


def test_no_rows_give_empty_results_and_a_gradient_of_zeros(library):
    x, weight, grad = torch.empty(0, 32), torch.randn(16, 32), torch.empty(0, 16)
    assert LINEAR(x, weight, torch.randn(16)).shape == (0, 16)
    assert LINEAR_INPUT_GRAD(grad, weight, None).shape == (0, 32)
    assert LINEAR_WEIGHT_GRAD(grad, x).equal(torch.zeros(16, 32))


def test_bits_do_not_depend_on_the_number_of_threads(library):
    x, weight, grad = torch.randn(700, 64), torch.randn(192, 64), torch.randn(700, 192)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                [LINEAR(x, weight, None), LINEAR_INPUT_GRAD(grad, weight, None), LINEAR_WEIGHT_GRAD(grad, x)]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("operator", [LINEAR, LINEAR_INPUT_GRAD, LINEAR_WEIGHT_GRAD])
def test_operators_pass_opcheck(library, operator):
    x, weight, grad = torch.randn(9, 32), torch.randn(16, 32), torch.randn(9, 16)
    arguments = {LINEAR: (x, weight, None), LINEAR_INPUT_GRAD: (grad, weight, None)}
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(operator, arguments.get(operator, (grad, x)), test_utils=checks)


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(20, 32),
        torch.randn(32, 32, dtype=torch.bfloat16),
        torch.randn(32, 32, dtype=torch.float64),
        torch.randn(MAX_ELEMENTS // 16 + 16, 16),
    ],
    ids=["odd", "bfloat16", "float64", "large"],
)
def test_what_the_kernels_do_not_take_is_torchs(library, weight):
    x = torch.randn(5, weight.shape[1], dtype=weight.dtype)
    grad = torch.randn(5, weight.shape[0], dtype=weight.dtype)
    assert linear(x, weight, None).equal(torch.mm(x, weight.t()))
    assert linear_input_grad(grad, weight).equal(torch.mm(grad, weight))
    assert linear_weight_grad(grad, x, weight).equal(torch.mm(grad.t(), x))


def test_rows_of_nan_stay_rows_of_nan(library):
    x, weight = torch.randn(10, 32), torch.randn(48, 32)
    x[3] = float("nan")
    x[9] = float("inf")
    out = LINEAR(x, weight, None)
    assert out[3].isnan().all() and not out[9].isfinite().any()
    others = [row for row in range(10) if row not in (3, 9)]
    assert out[others].isfinite().all()
