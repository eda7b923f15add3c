"""The loss of a vocabulary: logits and cross-entropy, in one piece or in chunks where memory is short.

The rule: with 2^28 logits or more (1 GiB in float32, and about three times that while they are
differentiated), torch's chunked `F.linear_cross_entropy` (torch 2.13) takes the place of the two operators.
It never holds all logits (131 MiB instead of 1,384 were measured) and is slower on a CPU (1.4 to 3.7 times):
it serves memory and not speed. The rule depends on sizes alone, so that a resumed run computes the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_LOGITS = 2**28
IGNORED = -100  # a label without a loss, as torch has it


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, mask: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Cross-entropy of hidden weight^T + bias in float32 and nats, summed where `mask` is 1; () float32.

    Args:
        hidden: (..., H).
        weight: (V, H).
        labels: (...) int64.
        mask: (...) float32, 0 or 1.
        bias: (V,), or None.
    """
    if labels.numel() * weight.shape[0] >= MOST_LOGITS and hasattr(F, "linear_cross_entropy"):
        return _chunked(hidden.flatten(0, -2), weight, labels.flatten(), mask.flatten(), bias)
    logits = F.linear(hidden, weight, bias)
    each = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="none")
    return (each * mask.flatten()).sum()


def _chunked(hidden: Tensor, weight: Tensor, labels: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
    options = nn.LinearCrossEntropyOptions(acc_dtype=None if hidden.dtype == torch.float32 else torch.float32)
    loss = F.linear_cross_entropy(
        hidden,
        weight,
        labels.masked_fill(mask == 0, IGNORED),
        linear_bias=bias,
        reduction="sum",
        ignore_index=IGNORED,
        options=options,
    )
    return loss.float()
