"""The compiled attention against PyTorch's composition in float64: every mask, precision, odd shape."""

import math

import pytest
import torch

from fpm_cli.kernels.attention import reference
from fpm_cli.kernels.common.philox import dropout_mask
from fpm_cli.ops.dropout import NO_DROPOUT, Dropout
from fpm_cli.ops.fused_attention import fused_attention, fused_self_attention
from fpm_cli.ops.schemas import ATTENTION, ATTENTION_BACKWARD
from fpm_cli.ops.selection import use_reference
from tests.operator_comparison import assert_as_accurate, converted, run

MASKS = ("none", "causal", "padding", "holes", "documents", "halves", "bias", "shared bias", "everything")
SHAPES = ((2, 37, 3, 16), (2, 64, 2, 32), (1, 130, 2, 64), (3, 5, 2, 20), (2, 1, 3, 8), (1, 70, 1, 80))
DROPPED = Dropout(0.1, seed=2**40 + 17, stream=9)


def composed(query, key, value, bias, *, hidden, scale, dropout):
    """Attention as PyTorch composes it, with the mask of the counted random numbers; exact in float64."""
    scores = query.transpose(1, 2) @ key.transpose(1, 2).mT * scale
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(hidden, -math.inf)
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    if dropout.probability:
        keys = scores.shape[3]
        padded = -(-keys // 4) * 4
        elements = torch.arange(scores.shape[:3].numel() * padded).view(*scores.shape[:3], padded)
        kept = dropout_mask(elements, dropout.probability, dropout.seed, dropout.stream)[..., :keys]
        weights = weights * kept / (1 - dropout.probability)
    return (weights @ value.transpose(1, 2)).transpose(1, 2)


def case(mask, batch, length, heads, size):
    """Inputs, keyword arguments of the operator, and what is hidden from whom, (B, 1, S, S)."""
    inputs = [torch.randn(batch, length, heads, size, requires_grad=True) for _ in range(3)]
    settings = {"scale": size**-0.5, "causal": mask in ("causal", "documents", "everything")}
    key_mask, documents, bias = None, None, None
    if mask in ("padding", "everything"):
        lengths = torch.randint(1, length + 1, (batch, 1))
        key_mask = torch.arange(length) < lengths
    if mask == "holes":
        key_mask = torch.rand(batch, length) > 0.3
    if mask in ("documents", "halves", "everything"):
        documents = (torch.rand(batch, length) > 0.8).long().cumsum(1)
    if "bias" in mask or mask == "everything":
        first = 1 if mask == "shared bias" else batch
        bias = torch.randn(first, heads, length, length, requires_grad=True)
    index = torch.arange(length)
    hidden = torch.zeros(batch, 1, length, length, dtype=torch.bool)
    if settings["causal"]:
        hidden |= index > index[:, None]
    if key_mask is not None:
        hidden |= ~key_mask[:, None, None]
    if documents is not None:
        hidden |= (documents[:, :, None] != documents[:, None])[:, None]
    return [*inputs, bias], {**settings, "key_mask": key_mask, "documents": documents}, hidden


def attend(query, key, value, bias, **settings):
    return fused_attention(query, key, value, bias=bias, **settings)


@pytest.mark.parametrize("dropout", [NO_DROPOUT, DROPPED], ids=["", "dropout"])
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_is_as_accurate_as_the_composition(instruction_set, mask, dropout):
    for shape in SHAPES:
        inputs, settings, hidden = case(mask, *shape)
        grad = torch.randn(shape)
        same = {"hidden": hidden, "scale": settings["scale"], "dropout": dropout}
        exact = run(composed, converted(inputs, torch.float64), same, grad.double())
        theirs = run(composed, inputs, same, grad)
        ours = run(attend, inputs, {**settings, "dropout": dropout}, grad)
        assert_as_accurate(ours, theirs, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mask", ["causal", "holes", "shared bias"])
def test_16_bit_precisions(instruction_set, mask, dtype):
    inputs, settings, hidden = case(mask, 2, 45, 2, 24)
    inputs = converted(inputs, dtype)
    grad = torch.randn(2, 45, 2, 24).to(dtype)
    same = {"hidden": hidden, "scale": settings["scale"], "dropout": DROPPED}
    exact = run(composed, converted(inputs, torch.float64), same, grad.double())
    theirs = run(composed, inputs, same, grad)
    ours = run(attend, inputs, {**settings, "dropout": DROPPED}, grad)
    assert_as_accurate(ours, theirs, exact)


@pytest.mark.parametrize("queries", [1, 7, 40])
def test_cross_attention_and_other_numbers_of_queries(library, queries):
    inputs = [torch.randn(2, n, 2, 16, requires_grad=True) for n in (queries, 40, 40)]
    grad = torch.randn(2, queries, 2, 16)
    for causal in (False, True):
        ahead = torch.arange(40) > torch.arange(40 - queries, 40)[:, None]
        same = {"hidden": ahead & causal, "scale": 0.25, "dropout": DROPPED}
        exact = run(composed, [*converted(inputs, torch.float64), None], same, grad.double())
        theirs = run(composed, [*inputs, None], same, grad)
        ours = run(attend, [*inputs, None], {"scale": 0.25, "causal": causal, "dropout": DROPPED}, grad)
        assert_as_accurate(ours, theirs, exact)


@pytest.mark.parametrize("causal", [False, True])
def test_a_packed_stream_is_its_sequences_one_by_one(library, causal):
    lengths = [5, 33, 1, 0, 64]
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    parts = torch.randn(sum(lengths), 3, 2, 16, requires_grad=True)
    grad = torch.randn(sum(lengths), 2, 16)
    settings = {"scale": 0.25, "causal": causal}
    [out, grad_parts] = run(fused_self_attention, [parts], {**settings, "cu_seqlens": ends}, grad)
    first = 0
    for length in lengths:
        rows = slice(first, first + length)
        own = parts.detach()[None, rows].requires_grad_()
        [expected, grad_own] = run(fused_self_attention, [own], settings, grad[None, rows])
        assert torch.equal(out[rows], expected[0])
        assert torch.equal(grad_parts[rows], grad_own[0])
        first += length


def test_packed_and_padded_references_drop_what_the_operator_drops(library):
    ends = torch.tensor([0, 9, 30], dtype=torch.int32)
    parts = torch.randn(30, 3, 2, 16)
    for settings in ({"cu_seqlens": ends}, {"causal": True, "cu_seqlens": ends}):
        ours = fused_self_attention(parts, scale=0.25, dropout=DROPPED, **settings)
        with use_reference():
            theirs = fused_self_attention(parts, scale=0.25, dropout=DROPPED, **settings)
        torch.testing.assert_close(ours, theirs)
    ours = fused_self_attention(parts[None], scale=0.25, dropout=DROPPED)
    with use_reference():
        torch.testing.assert_close(ours, fused_self_attention(parts[None], scale=0.25, dropout=DROPPED))


@pytest.mark.parametrize("mask", MASKS)
def test_gradcheck_of_the_reference(mask):
    inputs, settings, _ = case(mask, 2, 5, 2, 4)
    inputs = converted(inputs, torch.float64)
    wanted = [x for x in inputs if x is not None]

    def function(*given):
        arguments = [*given, None][:4]
        masks = settings["key_mask"], settings["documents"], None
        return reference.attention(*arguments, *masks, settings["causal"], 0.5, 0.2, 7, 9)

    assert torch.autograd.gradcheck(function, wanted)


def test_opcheck(library):
    inputs, settings, _ = case("everything", 2, 13, 2, 8)
    query, key, value, bias = (x.detach() for x in inputs)
    masks = settings["key_mask"], settings["documents"], None
    arguments = query, key, value, bias, *masks, True, 0.3, 0.1, 5, 9
    torch.library.opcheck(ATTENTION, arguments)
    out, log_sum_exp = ATTENTION(*arguments)
    grads = [torch.empty_like(x) for x in (query, key, value)]
    backward = (query, *arguments[:7], out, log_sum_exp, *arguments[7:], *grads, torch.zeros_like(bias))
    torch.library.opcheck(ATTENTION_BACKWARD, backward)


def test_expanded_gradients_and_strided_inputs(library):
    wide = torch.randn(2, 20, 3, 2, 24)
    parts = wide[..., 3:19].requires_grad_()  # rows that begin at odd addresses
    [expected] = torch.autograd.grad(fused_self_attention(parts, scale=0.2).sum(), parts)
    own = parts.detach().contiguous().requires_grad_()
    [grad] = torch.autograd.grad(fused_self_attention(own, scale=0.2).sum(), own)
    assert torch.equal(grad, expected)


def test_empty_inputs(library):
    for shape in ((0, 4, 3, 2, 8), (2, 0, 3, 2, 8)):
        parts = torch.randn(shape, requires_grad=True)
        out = fused_self_attention(parts, scale=1.0)
        out.sum().backward()
        assert out.shape == (*shape[:2], 2, 8)
        assert parts.grad.shape == shape


def test_rows_that_see_nothing_give_zeros_and_zero_gradients(library):
    inputs, settings, _ = case("none", 2, 40, 2, 16)
    settings["key_mask"] = torch.stack([torch.zeros(40, dtype=torch.bool), torch.arange(40) < 9])
    for implementation in ("compiled", "reference"):
        if implementation == "reference":
            with use_reference():
                out, *grads = run(attend, [*inputs[:3], None], settings, torch.ones(2, 40, 2, 16))
        else:
            out, *grads = run(attend, [*inputs[:3], None], settings, torch.ones(2, 40, 2, 16))
        assert not out[0].any()
        assert out[1].all()
        for grad in grads:
            assert not grad[0].any()
            assert grad.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_query_that_is_not_finite_spoils_its_own_row_alone(instruction_set, value):
    parts = torch.randn(1, 40, 3, 2, 16)
    parts[0, 11, 0, 1] = value
    out = fused_self_attention(parts, scale=0.25, causal=True)
    with use_reference():
        expected = fused_self_attention(parts, scale=0.25, causal=True)
    assert torch.equal(out.isfinite(), expected.isfinite())
    assert not out[0, 11, 1].isfinite().any()
    assert out.isfinite().sum() == out.numel() - 16


def test_masks_hide_what_is_not_finite(library):
    parts = torch.randn(1, 40, 3, 2, 16)
    spoilt = parts.clone()
    spoilt[0, 20:, 1] = math.nan
    key_mask = torch.arange(40)[None] < 20
    out = fused_self_attention(spoilt, scale=0.25, key_mask=key_mask)
    assert torch.equal(out[0, :20], fused_self_attention(parts, scale=0.25, key_mask=key_mask)[0, :20])


@pytest.mark.parametrize("mask", ["none", "shared bias"])
def test_same_bits_again_and_for_any_number_of_threads(library, mask):
    inputs, settings, _ = case(mask, 5, 70, 3, 16)
    grad = torch.randn(5, 70, 3, 16)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(attend, inputs, {**settings, "dropout": DROPPED}, grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_share_of_dropped_probabilities_and_their_independence(library):
    length, size = 64, 64
    zeros = torch.zeros(4, length, 2, size)  # equal probabilities: the output shows the mask
    identity = torch.eye(length)[None, :, None].expand(4, length, 2, size).contiguous()
    masks = []
    for stream in (1, 9):
        out = fused_attention(zeros, zeros, identity, scale=1.0, dropout=Dropout(0.3, 5, stream))
        masks.append((out == 0).double())  # (B, Q, N, K)
    for dropped in masks:
        assert abs(dropped.mean() - 0.3) < 4 * (0.21 / dropped.numel()) ** 0.5
    pairs = [
        (masks[0], masks[1]),  # layers
        (masks[0][1:], masks[0][:-1]),  # sequences
        (masks[0][:, :, 1:], masks[0][:, :, :-1]),  # heads
        (masks[0][:, 1:], masks[0][:, :-1]),  # queries
        (masks[0][..., 1:], masks[0][..., :-1]),  # keys
    ]
    for a, b in pairs:
        assert abs((a * b).mean() - 0.09) < 4 * (0.09 * 0.91 / a.numel()) ** 0.5


def test_what_cannot_be_attended_to_is_named(library):
    query = torch.randn(2, 4, 2, 8)
    with pytest.raises(RuntimeError, match="bias must be"):
        fused_attention(query, query, query, scale=1.0, bias=torch.zeros(2, 4, 4))
    with pytest.raises(RuntimeError, match="key_mask must be bool"):
        fused_attention(query, query, query, scale=1.0, key_mask=torch.ones(2, 4))
    with pytest.raises(RuntimeError, match="documents must not fall"):
        fused_attention(query, query, query, scale=1.0, documents=torch.tensor([[0, 1, 0, 1]] * 2))
