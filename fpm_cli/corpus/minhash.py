"""Near-duplicates: 16-byte shingles hashed by numpy, MinHash by rensa, bands for locality-sensitive hashing.

Rows of a band that agree make two documents candidates (Leskovec et al., Mining of Massive Datasets,
section 3.4); `similarity` then compares their whole sets of shingles.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SHINGLE_BYTES = 16  # about three English words, five Chinese characters
# At similarity 0.8, 1 - (1 - 0.8 ** 6) ** 20 = 99.8 % of pairs become candidates.
NUM_BANDS, ROWS_PER_BAND = 20, 6
SEED = 42

Hashes = npt.NDArray[np.uint64]
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def shingle_hashes(texts: Sequence[bytes]) -> tuple[Hashes, npt.NDArray[np.uint64]]:
    """Hash every run of 16 bytes that begins at a character of a UTF-8 text.

    Returns the hashes of all texts one after the other, and (len(texts) + 1,) where each text's begin.
    A text shorter than 16 bytes is one shingle. All texts are hashed in one sweep.
    """
    padding = bytes(SHINGLE_BYTES)
    content = padding.join(texts) + padding
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    starts = np.cumsum(lengths + SHINGLE_BYTES) - lengths - SHINGLE_BYTES
    num_windows = len(content) - SHINGLE_BYTES
    begins = np.frombuffer(content, np.uint8, num_windows) & 0xC0 != 0x80
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        begins[start + max(length - SHINGLE_BYTES, 0) + 1 : start + length + SHINGLE_BYTES] = False
    low = np.ndarray((num_windows,), "<u8", content, 0, (1,))[begins]
    high = np.ndarray((num_windows,), "<u8", content, 8, (1,))[begins]
    low *= _ODD
    low ^= low >> np.uint64(29)
    low += high
    low *= _MIX
    low ^= low >> np.uint64(32)
    counts = np.add.reduceat(begins, starts, dtype=np.int64) if len(texts) else lengths
    return low, np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)


def band_keys(texts: Sequence[bytes]) -> Hashes:
    """One key a band, (len(texts), NUM_BANDS): documents that share a key are candidates."""
    from rensa import RMinHash

    if not texts:
        return np.empty((0, NUM_BANDS), np.uint64)
    hashes, offsets = shingle_hashes(texts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, NUM_BANDS * ROWS_PER_BAND, SEED)
    rows = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(texts), NUM_BANDS, ROWS_PER_BAND)
    keys = np.broadcast_to(np.arange(1, NUM_BANDS + 1, dtype=np.uint64) * _ODD, rows.shape[:2]).copy()
    for row in range(ROWS_PER_BAND):
        keys ^= rows[:, :, row]
        keys *= _MIX
        keys ^= keys >> np.uint64(31)
    return keys


def shingle_set(text: bytes) -> Hashes:
    """The sorted, distinct shingle hashes of one text."""
    return np.unique(shingle_hashes([text])[0])


def similarity(one: Hashes, other: Hashes) -> float:
    """The Jaccard similarity of two sets from `shingle_set`."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return float(shared / (one.size + other.size - shared))
