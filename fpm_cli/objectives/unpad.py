"""A padded batch of the BERT objective as a packed stream: its sequences end to end, without padding.

The sequences are sorted by length, so that equal lengths are neighbours (`ops.attention.Packing`).
"""

import numpy as np

from fpm_cli.objectives.base import Sample

BY_TOKEN = ("tokens", "token_types", "labels", "loss_mask")


def unpad(batch: Sample) -> Sample:
    """The same samples without padding: T real tokens in n sequences, as `BERT.forward` reads them.

    Args:
        batch: collated samples of `objectives.masked`, (B, s) each.

    Returns:
        `tokens`, `token_types`, `labels`, `loss_mask` (T,); `lengths` (n,) int64; and either `sentence_order`
        (B,), one for each of n = B sequences, or, where the halves of a row are sequences of their own
        (n = 2B), `halves` (B, 2) int64: which sequences are the first and the second half of each row.
    """
    real = np.flatnonzero(batch["attention_mask"])  # (T,), positions in B * s
    rows = real // batch["tokens"].shape[1]
    in_halves = "sentence_order" not in batch
    sequences = 2 * rows + batch["token_types"].ravel()[real] if in_halves else rows  # (T,)
    lengths = np.bincount(sequences)
    order = np.argsort(lengths, kind="stable")  # (n,)
    places = np.argsort(order)  # (n,), where each sequence lies in the stream
    stream = real[np.argsort(places[sequences], kind="stable")]
    packed = {name: batch[name].ravel()[stream] for name in BY_TOKEN} | {"lengths": lengths[order]}
    if in_halves:
        return packed | {"halves": places.reshape(-1, 2)}
    return packed | {"sentence_order": batch["sentence_order"][order]}
