"""The order of an epoch: a keyed permutation of range(count), evaluated at any position in constant time."""

import math
from functools import lru_cache

import numpy as np

NUM_ROUNDS = 4  # of two half-rounds each
ORDER_STREAM = 2**32  # distinct from the streams of the splits in `objectives.base`
MASK_64 = 2**64 - 1


def shuffled(position: int, count: int, seed: int, epoch: int) -> int:
    """The element at `position` of the permutation of range(count) that (seed, epoch) keys.

    A Feistel network over pairs (row, column) of a rows x columns grid with rows * columns >= count:
    each half-round adds a keyed hash of one coordinate to the other, which is invertible, so the whole is
    a permutation of the grid; it is applied again to a value outside range(count) ("cycle walking").
    Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002. The grid has at most
    sqrt(count) surplus cells, so a second application is rare.
    """
    rows = math.isqrt(count - 1) + 1
    columns = -(-count // rows)
    keys = _round_keys(seed, epoch)
    while True:
        row, column = divmod(position, columns)
        for row_key, column_key in keys:
            row = (row + _mix(column ^ row_key)) % rows
            column = (column + _mix(row ^ column_key)) % columns
        position = row * columns + column
        if position < count:
            return position


@lru_cache(maxsize=16)
def _round_keys(seed: int, epoch: int) -> tuple[tuple[int, int], ...]:
    words = np.random.Philox(key=[seed, ORDER_STREAM], counter=[0, 0, 0, epoch]).random_raw(2 * NUM_ROUNDS)
    keys = [int(word) for word in words]
    return tuple(zip(keys[::2], keys[1::2], strict=True))


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): 64 bits to 64 well-mixed bits."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK_64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK_64
    return x ^ (x >> 31)
