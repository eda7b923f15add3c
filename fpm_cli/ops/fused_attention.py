"""Attention on projections as they are, masks and dropout inside: see `kernels/attention/README.md`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fpm_cli.kernels.attention import reference
from fpm_cli.ops.dropout import NO_DROPOUT, Dropout
from fpm_cli.ops.once_differentiable import once_differentiable
from fpm_cli.ops.schemas import ATTENTION, ATTENTION_BACKWARD
from fpm_cli.ops.selection import is_compiled


class _Attention(torch.autograd.Function):
    """Of three tensors."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *rest: Any
    ) -> Tensor:
        masks, settings = rest[:3], rest[3:]
        out, log_sum_exp = ATTENTION(query, key, value, bias, *masks, *settings)
        ctx.save_for_backward(query, key, value, bias, *masks, out, log_sum_exp)
        ctx.settings = settings
        return out  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, *rest = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        ATTENTION_BACKWARD(_rows(grad_out), query, key, value, bias, *rest, *ctx.settings, *grads, grad_bias)
        return *grads, grad_bias, *[None] * 8


class _SelfAttention(torch.autograd.Function):
    """Of one packed projection, whose gradient is written in place of three that would be joined."""

    @staticmethod
    def forward(ctx: Any, query_key_value: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        masks, settings = rest[:3], rest[3:]
        query, key, value = query_key_value.unbind(-3)
        out, log_sum_exp = ATTENTION(query, key, value, bias, *masks, *settings)
        ctx.save_for_backward(query_key_value, bias, *masks, out, log_sum_exp)
        ctx.settings = settings
        return out  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query_key_value, bias, *rest = ctx.saved_tensors
        grad = torch.empty_like(query_key_value, memory_format=torch.contiguous_format)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[1] else None
        inputs = query_key_value.unbind(-3)
        ATTENTION_BACKWARD(_rows(grad_out), *inputs, bias, *rest, *ctx.settings, *grad.unbind(-3), grad_bias)
        return grad, grad_bias, *[None] * 8


def _rows(x: Tensor) -> Tensor:
    """With a contiguous last dimension; gradients arrive expanded at times."""
    return x if x.stride(-1) == 1 else x.contiguous()


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    documents: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    causal: bool = False,
    dropout: Dropout = NO_DROPOUT,
) -> Tensor:
    """Attend.

    Args:
        query: (B, Q, N, D), of a packed stream (T, N, D); any strides with a contiguous last dimension,
            such as a view of a projection.
        key: (B, K, N, D), of a packed stream (T, N, D); `value` likewise.
        scale: multiplies the scores; 1/sqrt(D) for GPT and BERT, 1 for the encoder-decoder.
        bias: added to the scores, (1 or B, N, Q, K), of the query's dtype; it may need a gradient.
        key_mask: (B, K) bool, False for keys that no query sees.
        documents: (B, S) int64, not falling: each token's document. A query sees its own document alone.
        cu_seqlens: (n + 1,) int32: where the sequences of a packed stream begin, and its length; without
            `bias`, `key_mask` and `documents`.
        causal: query i sees the keys up to i + K - Q.
        dropout: of the attention probabilities.

    Returns:
        (B, Q, N, D), of a packed stream (T, N, D), contiguous. A query that sees no key gives zeros.
    """
    masks = key_mask, documents, cu_seqlens
    random = dropout.probability, dropout.seed, dropout.stream
    if is_compiled(query, head_size=query.shape[-1]):
        out: Tensor = _Attention.apply(query, key, value, bias, *masks, causal, scale, *random)
        return out
    if bias is None and documents is None and cu_seqlens is None and not dropout.probability:
        fused = _torch_attention(query, key, value, key_mask, causal, scale)
        if fused is not None:
            return fused
    return reference.attention(query, key, value, bias, *masks, causal, scale, *random)


def fused_self_attention(
    query_key_value: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    documents: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    causal: bool = False,
    dropout: Dropout = NO_DROPOUT,
) -> Tensor:
    """`fused_attention` of one projection (B, S, 3, N, D), packed (T, 3, N, D).

    Its gradient is written at once, where those of three tensors would have to be joined.
    """
    if is_compiled(query_key_value, head_size=query_key_value.shape[-1]):
        settings = causal, scale, dropout.probability, dropout.seed, dropout.stream
        out: Tensor = _SelfAttention.apply(query_key_value, bias, key_mask, documents, cu_seqlens, *settings)
        return out
    return fused_attention(
        *query_key_value.unbind(-3),
        scale=scale,
        bias=bias,
        key_mask=key_mask,
        documents=documents,
        cu_seqlens=cu_seqlens,
        causal=causal,
        dropout=dropout,
    )


def _torch_attention(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, causal: bool, scale: float
) -> Tensor | None:
    """torch's fused function where it computes the same: no dropout, and no row that is masked as a whole."""
    if key_mask is not None or (causal and query.shape[1] != key.shape[1]):
        return None
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).transpose(1, 2)
