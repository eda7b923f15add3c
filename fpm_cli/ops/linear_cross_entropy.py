"""The loss of a vocabulary: logits and cross-entropy, in pieces where that is faster or takes less memory.

The rules depend on sizes and on what is built alone, so that a resumed run computes the same:
  - With 2^28 logits or more (1 GiB in float32, and about three times that while they are differentiated),
    torch's chunked `F.linear_cross_entropy` (torch 2.13) takes the place of the two operators. It never holds
    all logits (131 MiB instead of 1,384 were measured) and is slower on a CPU (1.4 to 3.7 times): it serves
    memory and not speed.
  - With fewer, in float32 where the CPU operators are built, `_TiledLoss`: the vocabulary in tiles that the
    operators of `kernels/linear` multiply, each of which becomes its exponentials in place. It holds one
    number per logit instead of three or four, in pieces that the C library reuses from step to step.
  - Else the two operators.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpm_cli.ops.linear import MAX_ELEMENTS, MULTIPLE, linear, linear_input_grad, linear_weight_grad
from fpm_cli.ops.once_differentiable import once_differentiable
from fpm_cli.ops.selection import is_compiled

MOST_LOGITS = 2**28
TILE_LOGITS = 2**20  # 4 MiB, of which the passes over a tile find most in the caches
LEAST_WORDS = 256  # in a tile, so that many rows do not make many small products
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
    if hidden.is_cpu and hidden.dtype is weight.dtype is torch.float32 and is_compiled(hidden):
        loss: Tensor = _TiledLoss.apply(hidden.flatten(0, -2), weight, labels.flatten(), mask.flatten(), bias)
        return loss
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


class _TiledLoss(torch.autograd.Function):
    """Shapes: N rows, H hidden size, V vocabulary. A tile has the exponentials of (N, some words), less the
    largest logit of each row in it; the word of the label is subtracted from the gradients apart.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, mask: Tensor, bias: Tensor | None
    ) -> Tensor:
        exponentials, peaks, sums = [], [], []
        keeps_tiles = any(ctx.needs_input_grad)
        for words in _tiles(len(hidden), weight):
            tile = linear(hidden, weight[words], None if bias is None else bias[words])
            peaks.append(tile.amax(1))
            sums.append(tile.sub_(peaks[-1][:, None]).exp_().sum(1))
            if keeps_tiles:
                exponentials.append(tile)
        peak = torch.stack(peaks)  # (tiles, N)
        log_sum = (peak + torch.stack(sums).log()).logsumexp(0)  # (N,)
        label_logits = (hidden * weight[labels]).sum(1)
        if bias is not None:
            label_logits += bias[labels]
        ctx.save_for_backward(hidden, weight, labels, mask, bias, (peak - log_sum).exp_(), *exponentials)
        return ((log_sum - label_logits) * mask).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, mask, bias, scales, *tiles = ctx.saved_tensors
        rows = (grad * mask)[:, None]  # (N, 1)
        grad_hidden = -rows * weight[labels]
        grad_weight = torch.empty_like(weight)
        grad_bias = None if bias is None else torch.empty_like(bias)
        for words, tile, scale in zip(_tiles(len(hidden), weight), tiles, scales, strict=True):
            scale = scale[:, None] * rows  # the small matrices are scaled instead of the tile
            grad_hidden.addcmul_(linear_input_grad(tile, weight[words]), scale)
            grad_weight[words] = linear_weight_grad(tile, hidden * scale, weight[words])
            if grad_bias is not None:
                torch.mv(tile.t(), scale[:, 0], out=grad_bias[words])
        grad_weight.index_add_(0, labels, -rows * hidden)
        if grad_bias is not None:
            grad_bias.index_add_(0, labels, -rows[:, 0])
        return grad_hidden, grad_weight, None, None, grad_bias


def _tiles(num_rows: int, weight: Tensor) -> list[slice]:
    """The words of each tile: as many as one product of `kernels/linear` takes, and as fit in a cache."""
    num_words, width = weight.shape
    size = min(MAX_ELEMENTS // width, max(TILE_LOGITS // max(num_rows, 1), LEAST_WORDS))
    size = max(size // MULTIPLE, 1) * MULTIPLE
    return [slice(start, min(start + size, num_words)) for start in range(0, num_words, size)]
