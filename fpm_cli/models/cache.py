"""What a decoder has already read: the keys and values of each attention, so that none is made twice.

One cache serves one batch from its first token to its last. It travels down the model beside the
hidden states; every attention finds its own keys and values in it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]  # keys and values, each (B, N, K, D)


class Cache:
    """Keys and values by attention module, and how far the batch has been read.

    Rows of different lengths end together: a shorter one begins with `padding` tokens, which no
    other token sees.
    """

    def __init__(self, padding: Tensor, capacity: int):
        """`padding` (B,) int64: unread tokens before each row; `capacity`: positions at most."""
        self.padding, self.capacity = padding, capacity
        self.length = 0  # positions read before this forward pass
        self._kept: dict[nn.Module, Pair] = {}

    def positions(self, count: int) -> Tensor:
        """Of the next `count` tokens, from 0 at each row's first real one: (B, count) int64."""
        columns = torch.arange(self.length, self.length + count, device=self.padding.device)
        return (columns - self.padding[:, None]).clamp(min=0)

    def visible(self, count: int) -> Tensor:
        """What each of the next `count` tokens sees: (B, 1, count, length + count) bool.

        A padding token sees itself: a softmax over nothing is not a number.
        """
        keys = torch.arange(self.length + count, device=self.padding.device)
        queries = keys[self.length :, None]  # (count, 1)
        real = keys >= self.padding[:, None, None]  # (B, 1, K)
        return (((keys <= queries) & real) | (keys == queries))[:, None]

    def extend(self, attention: nn.Module, key: Tensor, value: Tensor) -> Pair:
        """Keep new keys and values (B, N, count, D) of an attention; all of them so far."""
        if attention not in self._kept:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._kept[attention] = key.new_empty(shape), value.new_empty(shape)
        end = self.length + key.shape[2]
        assert end <= self.capacity
        for kept, new in zip(self._kept[attention], (key, value), strict=True):
            kept[:, :, self.length : end] = new
        keys, values = self._kept[attention]
        return keys[:, :, :end], values[:, :, :end]

    def once(self, attention: nn.Module, make: Callable[[], Pair]) -> Pair:
        """The keys and values of a memory that does not change, made at the first call."""
        if attention not in self._kept:
            self._kept[attention] = make()
        return self._kept[attention]

    def advance(self, count: int) -> None:
        """The forward pass over `count` tokens is done."""
        self.length += count
