"""The compiled bias_gelu and gated_gelu against PyTorch's composition in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from fpm_cli.kernels.bias_gelu import reference
from fpm_cli.ops.gelu import bias_gelu, gated_gelu
from fpm_cli.ops.schemas import BIAS_GELU, BIAS_GELU_BACKWARD, GATED_GELU, GATED_GELU_BACKWARD
from fpm_cli.ops.selection import use_reference
from tests.operator_comparison import assert_as_accurate, converted, run

SHAPES = ((3, 5, 64), (33, 20), (1, 41), (7, 37), (300, 256))
FORMS = [False, True]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def composed_bias_gelu(x, bias, *, tanh):
    return F.gelu(x if bias is None else x + bias, approximate="tanh" if tanh else "none")


def composed_gated_gelu(gate, up, *, tanh):
    return F.gelu(gate, approximate="tanh" if tanh else "none") * up


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tanh", FORMS, ids=["erf", "tanh"])
def test_bias_gelu_is_as_accurate_as_the_composition(instruction_set, tanh, dtype):
    for shape in SHAPES:
        for bias in (torch.randn(shape[-1], requires_grad=True), None):
            inputs = converted([(3 * torch.randn(shape)).requires_grad_(), bias], dtype)
            grad = torch.randn(shape).to(dtype)
            exact = run(composed_bias_gelu, converted(inputs, torch.float64), {"tanh": tanh}, grad.double())
            theirs = run(composed_bias_gelu, inputs, {"tanh": tanh}, grad)
            assert_as_accurate(run(bias_gelu, inputs, {"tanh": tanh}, grad), theirs, exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tanh", FORMS, ids=["erf", "tanh"])
def test_gated_gelu_is_as_accurate_as_the_composition(instruction_set, tanh, dtype):
    for shape in SHAPES:
        inputs = converted([(3 * torch.randn(shape)).requires_grad_() for _ in range(2)], dtype)
        grad = torch.randn(shape).to(dtype)
        exact = run(composed_gated_gelu, converted(inputs, torch.float64), {"tanh": tanh}, grad.double())
        theirs = run(composed_gated_gelu, inputs, {"tanh": tanh}, grad)
        assert_as_accurate(run(gated_gelu, inputs, {"tanh": tanh}, grad), theirs, exact)


@pytest.mark.parametrize("tanh", FORMS, ids=["erf", "tanh"])
def test_every_size_of_number(instruction_set, tanh):
    x = torch.cat([torch.linspace(-20, 20, 40001), torch.tensor([-1e10, 1e10, -0.0, 1e-40])])
    x.requires_grad_()
    ones = torch.ones_like(x)
    exact = run(
        composed_bias_gelu, [x.detach().double().requires_grad_(), None], {"tanh": tanh}, ones.double()
    )
    ours = run(bias_gelu, [x, None], {"tanh": tanh}, ones)
    theirs = run(composed_bias_gelu, [x, None], {"tanh": tanh}, ones)
    for our, their, expected in zip(ours, theirs, exact, strict=True):
        error, allowed = (our.double() - expected)[:40001].abs(), (their.double() - expected)[:40001].abs()
        assert error.max() <= 2 * allowed.max()
        assert torch.equal(our[40001:], expected[40001:].float())


def test_what_is_not_finite(instruction_set):
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    for tanh in FORMS:
        y = bias_gelu(x, None, tanh=tanh)
        assert y[0].isnan()
        assert y[1] == math.inf
        assert y[3].isfinite()
        assert not y[2].isfinite() or y[2] == 0


@pytest.mark.parametrize("tanh", FORMS, ids=["erf", "tanh"])
def test_gradcheck_of_the_references(tanh):
    x, bias, up = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (4,), (3, 4)))
    assert torch.autograd.gradcheck(lambda *given: reference.bias_gelu(*given, tanh), (x, bias))
    assert torch.autograd.gradcheck(lambda *given: reference.gated_gelu(*given, tanh), (x, up))


def test_opcheck(library):
    x, bias, grad = torch.randn(5, 12), torch.randn(12), torch.randn(5, 12)
    for tanh in FORMS:
        torch.library.opcheck(BIAS_GELU, (x, bias, tanh))
        torch.library.opcheck(BIAS_GELU_BACKWARD, (grad, x, bias, tanh))
        torch.library.opcheck(BIAS_GELU_BACKWARD, (grad, x, None, tanh))
        torch.library.opcheck(GATED_GELU, (x, grad, tanh))
        torch.library.opcheck(GATED_GELU_BACKWARD, (grad, x, x + 1, tanh))


def test_empty_and_strided_inputs(library):
    empty = torch.empty(0, 8, requires_grad=True)
    assert bias_gelu(empty, torch.randn(8), tanh=True).shape == (0, 8)
    x = torch.randn(8, 6).T.requires_grad_()
    expected = F.gelu(x.detach())
    y = bias_gelu(x, None, tanh=False)
    torch.testing.assert_close(y, expected)
    [grad] = torch.autograd.grad(y.sum(), x)  # an expanded gradient
    assert grad.shape == x.shape
    with use_reference():
        [reference_grad] = torch.autograd.grad(bias_gelu(x, None, tanh=False).sum(), x)
    torch.testing.assert_close(grad, reference_grad)


def test_same_bits_again_and_for_any_number_of_threads(library):
    inputs = [torch.randn(900, 96, requires_grad=True), torch.randn(96, requires_grad=True)]
    grad = torch.randn(900, 96)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(bias_gelu, inputs, {"tanh": False}, grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
