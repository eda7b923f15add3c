"""The compiled residual_norm against PyTorch's composition in float64: every form, precision, odd shape."""

import math

import pytest
import torch
import torch.nn.functional as F

from fpm_cli.kernels.common.philox import dropout_mask
from fpm_cli.kernels.residual_norm import reference
from fpm_cli.ops.dropout import NO_DROPOUT, Dropout
from fpm_cli.ops.residual_norm import residual_norm
from fpm_cli.ops.schemas import (
    NORM,
    NORM_BACKWARD,
    RESIDUAL,
    RESIDUAL_BACKWARD,
    RESIDUAL_NORM,
    RESIDUAL_NORM_BACKWARD,
)
from fpm_cli.ops.selection import use_reference
from tests.operator_comparison import assert_as_accurate, converted, run

SHAPES = ((3, 5, 64), (33, 20), (5, 1, 4), (7, 37), (129, 256), (2, 1030))
DROPPED = Dropout(0.1, seed=2**40 + 17, stream=10)
FORMS = {  # biases, RMSNorm, alpha
    "layer norm": (True, False, 1.0),
    "deepnorm": (True, False, 2.1),
    "rms norm": (False, True, 1.0),
    "rms norm, deepnorm": (False, True, 1.7),
}


def composed(x, y, bias, weight, norm_bias, *, alpha, dropout, rms):
    branch = y if bias is None else y + bias
    if dropout.probability:
        elements = torch.arange(-(-x.numel() // 4) * 4)
        kept = dropout_mask(elements, dropout.probability, dropout.seed, dropout.stream)[: x.numel()]
        branch = branch * kept.view(x.shape) / (1 - dropout.probability)
    total = alpha * x + branch
    if rms:
        return total, F.rms_norm(total, weight.shape, weight, 1e-5)
    return total, F.layer_norm(total, weight.shape, weight, norm_bias, 1e-5)


def fused(x, y, bias, weight, norm_bias, **settings):
    return residual_norm(x, y, weight, bias=bias, norm_bias=norm_bias, eps=1e-5, **settings)


def case(form, shape, dropout):
    biases, rms, alpha = FORMS[form]
    width = shape[-1]
    sizes = shape, shape, (width,), (width,), (width,)
    inputs = [torch.randn(size).requires_grad_() for size in sizes]
    if not biases:
        inputs[2] = inputs[4] = None
    return inputs, {"alpha": alpha, "dropout": dropout, "rms": rms}


@pytest.mark.parametrize("dropout", [NO_DROPOUT, DROPPED], ids=["", "dropout"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_as_accurate_as_the_composition(instruction_set, form, dropout):
    for shape in SHAPES:
        inputs, settings = case(form, shape, dropout)
        grads = torch.randn(shape), torch.randn(shape)
        exact = run(composed, converted(inputs, torch.float64), settings, [g.double() for g in grads])
        theirs = run(composed, inputs, settings, grads)
        assert_as_accurate(run(fused, inputs, settings, grads), theirs, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_16_bit_precisions(instruction_set, form, dtype):
    for shape in ((9, 96), (33, 20)):
        inputs, settings = case(form, shape, DROPPED)
        inputs = converted(inputs, dtype)
        grads = [torch.randn(shape).to(dtype) for _ in range(2)]
        exact = run(composed, converted(inputs, torch.float64), settings, [g.double() for g in grads])
        theirs = run(composed, inputs, settings, grads)
        assert_as_accurate(run(fused, inputs, settings, grads), theirs, exact)


@pytest.mark.parametrize("form", FORMS)
def test_reference_drops_what_the_operator_drops(library, form):
    inputs, settings = case(form, (7, 30), DROPPED)  # rows that begin inside a group of four
    grads = torch.randn(7, 30), torch.randn(7, 30)
    ours = run(fused, inputs, settings, grads)
    with use_reference():
        theirs = run(fused, inputs, settings, grads)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck_of_the_reference(form):
    inputs, settings = case(form, (3, 6), DROPPED)
    inputs = converted(inputs, torch.float64)
    present = [x is not None for x in inputs]

    def function(*given):
        left = iter(given)
        arguments = [next(left) if there else None for there in present]
        return reference.residual_norm(*arguments, settings["alpha"], 0.2, 7, 10, 1e-5, settings["rms"])

    assert torch.autograd.gradcheck(function, [x for x in inputs if x is not None])


@pytest.mark.parametrize("form", FORMS)
def test_opcheck(library, form):
    inputs, settings = case(form, (5, 12), DROPPED)
    x, y, bias, weight, norm_bias = (None if t is None else t.detach() for t in inputs)
    random = 0.1, 7, 10
    rms = settings["rms"]
    torch.library.opcheck(RESIDUAL_NORM, (x, y, bias, weight, norm_bias, 1.5, *random, 1e-5, rms))
    total, _, stats = RESIDUAL_NORM(x, y, bias, weight, norm_bias, 1.5, *random, 1e-5, rms)
    biases = bias is not None, norm_bias is not None
    torch.library.opcheck(RESIDUAL_NORM_BACKWARD, (x, y, total, stats, weight, 1.5, *random, rms, *biases))
    torch.library.opcheck(RESIDUAL_NORM_BACKWARD, (None, y, total, stats, weight, 1.5, *random, rms, *biases))


def test_either_result_may_go_unused(library):
    inputs, settings = case("layer norm", (4, 16), DROPPED)
    total, normed = fused(*inputs, **settings)
    alone = torch.autograd.grad(total.sum(), inputs[0], retain_graph=True)[0]
    torch.testing.assert_close(alone, torch.ones(4, 16))
    [grad] = torch.autograd.grad(normed[0, 0], inputs[0])
    assert grad[0].any()
    assert not grad[1:].any()


def test_empty_and_strided_inputs(library):
    inputs, settings = case("layer norm", (0, 16), DROPPED)
    assert [x.shape for x in run(fused, inputs, settings, (torch.empty(0, 16),) * 2)][:2] == [(0, 16)] * 2
    inputs, settings = case("layer norm", (6, 10), DROPPED)
    grads = torch.randn(10, 6).T, torch.ones(1).expand(6, 10)
    expected = run(fused, inputs, settings, [g.contiguous() for g in grads])
    inputs[0] = inputs[0].detach().T.contiguous().T.requires_grad_()
    for our, their in zip(run(fused, inputs, settings, grads), expected, strict=True):
        assert torch.equal(our, their)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_spoils_its_own_row_alone(instruction_set, value):
    inputs, settings = case("layer norm", (5, 40), NO_DROPOUT)
    with torch.no_grad():
        inputs[0][2, 7] = value
    total, normed = fused(*inputs, **settings)
    assert torch.equal(total.isfinite(), inputs[0].isfinite())
    assert normed.isfinite().all(dim=1).tolist() == [True, True, False, True, True]


def test_same_bits_again_and_for_any_number_of_threads(library):
    inputs, settings = case("deepnorm", (700, 64), DROPPED)
    grads = torch.randn(700, 64), torch.randn(700, 64)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(fused, inputs, settings, grads))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_weight_of_another_width_is_named(library):
    x = torch.randn(3, 8)
    with pytest.raises(RuntimeError, match="weight must have x's last size"):
        residual_norm(x, x, torch.ones(7), eps=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_norm_alone_is_the_norm_of_the_sum(instruction_set, form):
    biases, rms, _ = FORMS[form]
    for shape in SHAPES:
        (x, _, _, weight, norm_bias), _ = case(form, shape, NO_DROPOUT)
        zero, grad, grad_x = torch.zeros(shape), torch.randn(shape), torch.randn(shape)
        x, weight, norm_bias = (
            tensor if tensor is None else tensor.detach() for tensor in (x, weight, norm_bias)
        )
        normed, stats = NORM(x, weight, norm_bias, 1e-5, rms)
        total, expected, expected_stats = RESIDUAL_NORM(
            x, zero, None, weight, norm_bias, 1.0, 0.0, 0, 0, 1e-5, rms
        )
        assert total.equal(x) and normed.equal(expected) and stats.equal(expected_stats)
        ours = NORM_BACKWARD(grad_x, grad, x, stats, weight, rms, biases)
        gradients = RESIDUAL_NORM_BACKWARD(
            grad_x, grad, total, stats, weight, 1.0, 0.0, 0, 0, rms, False, biases
        )
        for our, their in zip(ours, (gradients[0], *gradients[3:]), strict=True):
            assert our.equal(their)


@pytest.mark.parametrize("dropout", [NO_DROPOUT, DROPPED], ids=["", "dropout"])
def test_the_residual_alone_is_the_sum_of_the_fused_operator(instruction_set, dropout):
    random = dropout.probability, dropout.seed, dropout.stream
    for shape in SHAPES:
        x, y, bias = torch.randn(shape), torch.randn(shape), torch.randn(shape[-1])
        weight, grad = torch.ones(shape[-1]), torch.randn(shape)
        for each in (bias, None):
            total = RESIDUAL(x, y, each, *random)
            expected, _, stats = RESIDUAL_NORM(x, y, each, weight, None, 1.0, *random, 1e-5, False)
            assert total.equal(expected)
            grad_y, grad_bias = RESIDUAL_BACKWARD(grad, *random, each is not None)
            gradients = RESIDUAL_NORM_BACKWARD(
                grad, torch.zeros(shape), total, stats, weight, 1.0, *random, False, each is not None, False
            )
            assert grad_y.equal(gradients[1]) and grad_bias.equal(gradients[2])
