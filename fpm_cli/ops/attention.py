"""Scaled dot-product attention: one function for all families, fused by torch on every device; and one
for packed streams, in which sequences of any length lie one after the other without padding.
"""

import warnings
from dataclasses import dataclass, field
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from fpm_cli import cuda


@dataclass(frozen=True)
class Packing:
    """The lengths of the sequences in a packed stream of T tokens, in order.

    On the CPU neighbours of equal length are attended to in one call: sort by length where the order is free.
    """

    lengths: tuple[int, ...]
    _offsets: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def offsets(self, device: torch.device) -> Tensor:
        """Where each sequence begins in the stream, and its length T: (n + 1,) int64, copied there once."""
        if device not in self._offsets:
            self._offsets[device] = cuda.to_device(torch.tensor([0, *accumulate(self.lengths)]), device)
        return self._offsets[device]

    def positions(self, device: torch.device) -> Tensor:
        """Each token's position in its sequence, (T,) int64."""
        longest = torch.arange(max(self.lengths), device=device)
        return torch.cat([longest[:length] for length in self.lengths])

    def first(self, hidden: Tensor) -> Tensor:
        """The first token's row of each sequence: (T, H) -> (n, H)."""
        return hidden[self.offsets(hidden.device)[:-1]]

    def last(self, hidden: Tensor) -> Tensor:
        """The last token's row of each sequence: (T, H) -> (n, H)."""
        return hidden[self.offsets(hidden.device)[1:] - 1]

    def mean(self, hidden: Tensor) -> Tensor:
        """The mean row of each sequence: (T, H) -> (n, H)."""
        lengths = self.offsets(hidden.device).diff()
        numbers = torch.arange(len(lengths), device=hidden.device)
        owner = torch.repeat_interleave(numbers, lengths, output_size=len(hidden))  # (T,)
        sums = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, owner, hidden)
        return sums / lengths[:, None]


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


def packed_attention(
    query_key_value: Tensor, packing: Packing, *, scale: float, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Attend within each sequence of a packed stream.

    On a GPU one kernel takes all sequences at their own lengths (torch's jagged tensors). On the CPU torch
    would pad those, so there each run of equal lengths is a batch of its own.

    Args:
        query_key_value: (T, 3, heads, head size).
        packing: where the sequences lie in it.
        scale, causal, dropout: as for `attention`.

    Returns:
        (T, heads, head size).
    """
    attend = jagged_attention if query_key_value.is_cuda else grouped_attention
    return attend(query_key_value, packing, scale, causal, dropout)


def grouped_attention(parts: Tensor, packing: Packing, scale: float, causal: bool, dropout: float) -> Tensor:
    """`packed_attention` as one batch for each run of equal lengths."""
    groups = [(length, len(list(run))) for length, run in groupby(packing.lengths)]
    mixed = []
    for part, (length, count) in zip(  # query, key and value: (count, N, length, D)
        torch.split(parts, [a * b for a, b in groups]), groups, strict=True
    ):
        query, key, value = part.view(count, length, *part.shape[1:]).permute(2, 0, 3, 1, 4)
        out = attention(query, key, value, scale=scale, causal=causal, dropout=dropout)
        mixed.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed)


def jagged_attention(parts: Tensor, packing: Packing, scale: float, causal: bool, dropout: float) -> Tensor:
    """`packed_attention` through torch's jagged tensors."""
    offsets = packing.offsets(parts.device)
    shortest, longest = min(packing.lengths), max(packing.lengths)
    with warnings.catch_warnings():  # torch calls the layout a prototype
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors", UserWarning)
        query, key, value = (
            torch.nested.nested_tensor_from_jagged(
                part.contiguous(), offsets, min_seqlen=shortest, max_seqlen=longest
            ).transpose(1, 2)
            for part in parts.unbind(1)
        )
        out = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=causal, scale=scale
        )
        return out.transpose(1, 2).values()
