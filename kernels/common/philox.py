"""`philox.h` in PyTorch: the same words on any device, for the reference implementations.

Philox 4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, as 32-bit fractions
ROUNDS = 10
LOW = 0xFFFFFFFF


def philox4x32_10(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """The four words of each counter.

    Args:
        counter: (..., 4) int64, each of 0 ... 2^32 - 1.
        key: two 32-bit numbers.

    Returns:
        (..., 4) int64, each of 0 ... 2^32 - 1.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    key0, key1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # the 64 bits of it, whatever the sign
        c0, c1 = _high(product1) ^ c1 ^ key0, product1 & LOW
        c2, c3 = _high(product0) ^ c3 ^ key1, product0 & LOW
        key0, key1 = (key0 + WEYL[0]) & LOW, (key1 + WEYL[1]) & LOW
    return torch.stack([c0, c1, c2, c3], dim=-1)


def dropout_mask(elements: Tensor, probability: float, seed: int, stream: int) -> Tensor:
    """Which elements of one dropout are kept.

    Args:
        elements: element indices, (..., 4 n) int64, in which every four consecutive ones from a multiple of
            four on are 4 i, 4 i + 1, 4 i + 2, 4 i + 3.
        probability: of dropping an element, 0 <= probability < 1.
        seed: 0 <= seed < 2^63.
        stream: layer * 8 + site, see `philox.h`.

    Returns:
        bool, the shape of `elements`.
    """
    groups = elements[..., ::4] // 4
    counter = torch.stack(
        [groups & LOW, _high(groups), torch.full_like(groups, stream), torch.zeros_like(groups)], dim=-1
    )
    words = philox4x32_10(counter, (seed & LOW, seed >> 32))
    return words.flatten(-2) >= int(probability * 2**32)


def _high(product: Tensor) -> Tensor:
    """The upper 32 of 64 bits, unsigned."""
    return (product >> 32) & LOW
