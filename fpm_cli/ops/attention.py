"""Scaled dot-product attention: one function for all families, fused by torch on every device."""

import torch.nn.functional as F
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Attend.

    Args:
        query: (batch, heads, query length, head size); `key`, `value` likewise with the key length.
        scale: multiplies the scores; 1/sqrt(head size) for GPT and BERT, 1 for the encoder-decoder.
        bias: broadcastable to (batch, heads, query length, key length): a float is added to the
            scores, a bool keeps (True) or masks (False) a position.
        causal: position i sees the keys up to i; without `bias` only (put both into one bias).
        dropout: probability of dropping an attention weight.

    Returns:
        (batch, heads, query length, head size).
    """
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=causal, scale=scale
    )
