"""The keys and values that a decoder has already computed, so that a new token costs one position.

One cache serves one batch from its first token to its last. It is passed down the model with the
`AttentionContext`; every attention module finds its own keys and values in it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]  # keys and values, each (B, N, K, D)


class KVCache:
    """Keys and values by attention module, and the number of positions read so far.

    Rows of different lengths are aligned at their ends: a shorter one begins with `padding` tokens, which
    no other token attends to.
    """

    def __init__(self, padding: Tensor, capacity: int):
        """`padding` (B,) int64: padding tokens before each row; `capacity`: the largest number of tokens."""
        self.padding, self.capacity = padding, capacity
        self.length = 0  # positions read before this forward pass
        self._key_values: dict[nn.Module, KeyValue] = {}

    def positions(self, count: int) -> Tensor:
        """Positions of the next `count` tokens, from 0 at each row's first real token: (B, count) int64."""
        columns = torch.arange(self.length, self.length + count, device=self.padding.device)
        return (columns - self.padding[:, None]).clamp(min=0)

    def causal_mask(self, count: int) -> Tensor:
        """The keys that each of the next `count` tokens attends to: (B, 1, count, length + count) bool.

        A padding token attends to itself, because a softmax over no key is not a number.
        """
        keys = torch.arange(self.length + count, device=self.padding.device)
        queries = keys[self.length :, None]  # (count, 1)
        real = keys >= self.padding[:, None, None]  # (B, 1, K)
        return (((keys <= queries) & real) | (keys == queries))[:, None]

    def extend(self, attention: nn.Module, key: Tensor, value: Tensor) -> KeyValue:
        """Append new keys and values (B, N, count, D) of a module; returns all of its keys and values."""
        if attention not in self._key_values:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._key_values[attention] = key.new_empty(shape), value.new_empty(shape)
        end = self.length + key.shape[2]
        assert end <= self.capacity
        keys, values = self._key_values[attention]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def get_or_compute(self, attention: nn.Module, compute: Callable[[], KeyValue]) -> KeyValue:
        """The keys and values of a memory that does not change, computed at the first call."""
        if attention not in self._key_values:
            self._key_values[attention] = compute()
        return self._key_values[attention]

    def advance(self, count: int) -> None:
        """Count `count` tokens as read, at the end of their forward pass."""
        self.length += count
