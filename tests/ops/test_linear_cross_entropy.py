"""The chunked loss against logits and cross-entropy in float64, and the rule that picks between the two."""

import pytest
import torch
import torch.nn.functional as F

from fpm_cli.ops import linear_cross_entropy as module
from fpm_cli.ops.linear_cross_entropy import linear_cross_entropy


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch before 2.13")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_loss_and_gradients_are_those_of_float64(monkeypatch, chunked, has_bias, dtype):
    monkeypatch.setattr(module, "MOST_LOGITS", 0 if chunked else 2**40)
    hidden = torch.randn(3, 11, 16).to(dtype).requires_grad_()
    weight = torch.randn(50, 16).to(dtype).requires_grad_()
    bias = torch.randn(50).to(dtype).requires_grad_() if has_bias else None
    labels, mask = torch.randint(50, (3, 11)), (torch.rand(3, 11) < 0.6).float()
    leaves = [x for x in (hidden, weight, bias) if x is not None]
    loss = linear_cross_entropy(hidden, weight, labels, mask, bias)
    grads = torch.autograd.grad(loss, leaves)

    wide = [x.detach().double().requires_grad_() for x in leaves]
    logits = F.linear(*wide).flatten(0, 1)
    exact = F.cross_entropy(logits[mask.flatten() > 0], labels[mask > 0], reduction="sum")
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.1}
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact.detach(), **tolerance)
    for grad, expected in zip(grads, torch.autograd.grad(exact, wide), strict=True):
        torch.testing.assert_close(grad.double(), expected, **tolerance)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("num_words", [48, 800, 1003])
@pytest.mark.parametrize("has_bias", [False, True])
def test_tiles_give_the_loss_and_the_gradients_of_float64(monkeypatch, has_bias, num_words):
    monkeypatch.setattr(module, "MAX_ELEMENTS", 128 * 32)  # tiles of 128 words
    tiles = []
    product = module.linear
    monkeypatch.setattr(module, "linear", lambda *inputs: tiles.append(1) or product(*inputs))
    hidden = (5 * torch.randn(3, 7, 32)).requires_grad_()  # logits up to about 100
    weight, bias = torch.randn(num_words, 32).requires_grad_(), torch.randn(num_words).requires_grad_()
    labels, mask = torch.randint(num_words, (3, 7)), (torch.rand(3, 7) < 0.6).float()
    leaves = [hidden, weight, *([bias] if has_bias else [])]
    loss = linear_cross_entropy(hidden, weight, labels, mask, bias if has_bias else None)
    grads = torch.autograd.grad(loss * 0.25, leaves)
    assert len(tiles) == -(-num_words // 128)

    wide = [x.detach().double().requires_grad_() for x in leaves]
    logits = F.linear(*wide).flatten(0, 1)
    exact = F.cross_entropy(logits[mask.flatten() > 0], labels[mask > 0], reduction="sum")
    torch.testing.assert_close(loss.double(), exact.detach(), rtol=1e-5, atol=1e-4)
    for grad, expected in zip(grads, torch.autograd.grad(exact * 0.25, wide), strict=True):
        torch.testing.assert_close(grad.double(), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert linear_cross_entropy(hidden, weight, labels, mask, bias if has_bias else None) == loss


def test_the_rule_counts_the_logits(monkeypatch):
    chunks = []
    monkeypatch.setattr(module, "MOST_LOGITS", 6 * 50)
    monkeypatch.setattr(module, "_chunked", lambda hidden, *rest: chunks.append(len(hidden)) or hidden.sum())
    for rows in (5, 6):
        hidden = torch.randn(rows, 16)
        linear_cross_entropy(hidden, torch.randn(50, 16), torch.zeros(rows).long(), torch.ones(rows))
    assert chunks == ([6] if hasattr(F, "linear_cross_entropy") else [])
