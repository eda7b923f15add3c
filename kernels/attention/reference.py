"""`attention` in plain PyTorch, with the masks of the compiled operator."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from fpm_cli.kernels.common.philox import dropout_mask


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    key_mask: Tensor | None,
    documents: Tensor | None,
    cu_seqlens: Tensor | None,
    causal: bool,
    scale: float,
    probability: float,
    seed: int,
    stream: int,
) -> Tensor:
    """Arguments as for `fpm_cli.ops.attention.fused_attention`; (B, Q, N, D), packed (T, N, D)."""
    dropout = probability, seed, stream
    if cu_seqlens is None:
        weights = _weights(query, key, bias, _hidden(query, key, key_mask, documents, causal), scale)
        rows = torch.arange(weights.shape[:3].numel(), device=query.device).view(weights.shape[:3])
        return _mixed(weights, value, rows, key.shape[1], *dropout)
    ends = cu_seqlens.tolist()
    longest = max((end - first for first, end in pairwise(ends)), default=0)
    parts = []
    for first, end in pairwise(ends):
        q, k, v = (x[None, first:end] for x in (query, key, value))
        weights = _weights(q, k, None, _hidden(q, k, None, None, causal), scale)
        heads = torch.arange(query.shape[1], device=query.device)[:, None]
        rows = heads * len(query) + torch.arange(first, end, device=query.device)  # (N, Q)
        parts.append(_mixed(weights, v, rows[None], longest, *dropout)[0])
    return torch.cat(parts) if parts else query.new_empty(query.shape)


def _hidden(
    query: Tensor, key: Tensor, key_mask: Tensor | None, documents: Tensor | None, causal: bool
) -> Tensor:
    """What a query does not see, True where hidden, broadcastable to (B, N, Q, K)."""
    queries, keys = query.shape[1], key.shape[1]
    hidden = torch.zeros((1, 1, queries, keys), dtype=torch.bool, device=query.device)
    if causal:  # the last query sees the last key
        last = torch.arange(keys - queries, keys, device=query.device)[:, None]
        hidden = hidden | (torch.arange(keys, device=query.device) > last)
    if documents is not None:
        hidden = hidden | (documents[:, :, None] != documents[:, None, :])[:, None]
    if key_mask is not None:
        hidden = hidden | ~key_mask[:, None, None, :]
    return hidden


def _weights(query: Tensor, key: Tensor, bias: Tensor | None, hidden: Tensor, scale: float) -> Tensor:
    """The attention probabilities (B, N, Q, K); zeros for a query that sees nothing."""
    scores = (query.transpose(1, 2) * scale) @ key.transpose(1, 2).mT
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(hidden, -math.inf)
    dead = torch.isneginf(scores).all(dim=-1, keepdim=True)  # softmax would give NaN
    return torch.softmax(scores.masked_fill(dead, 0.0), dim=-1).masked_fill(dead, 0.0)


def _mixed(
    weights: Tensor, value: Tensor, rows: Tensor, num_columns: int, probability: float, seed: int, stream: int
) -> Tensor:
    """dropout(weights) @ value, (B, Q, N, D).

    Args:
        weights: (B, N, Q, K); `value` (B, K, N, D).
        rows: (B, N, Q) int64: the number of each row of probabilities in its dropout.
        num_columns: the length of such a row, before it is rounded up to a multiple of 4.
        probability, seed, stream: of the dropout.
    """
    if probability:
        num_keys = weights.shape[3]
        columns = torch.arange((num_keys + 3) // 4 * 4, device=weights.device)
        elements = rows[..., None] * ((num_columns + 3) // 4 * 4) + columns
        kept = dropout_mask(elements, probability, seed, stream)[..., :num_keys]
        weights = torch.where(kept, weights * (1 / (1 - probability)), torch.zeros_like(weights))
    return (weights @ value.transpose(1, 2)).transpose(1, 2)
