"""Splits the examples of a step into batches for the ranks."""

import numpy as np

from fpm_cli.tasks.encoded import EncodedExamples, Ids


def balanced_batches(examples: EncodedExamples, rows: Ids, num_batches: int) -> list[Ids]:
    """Split `rows` into `num_batches` batches of equal size, each sorted by length.

    Families that read packed sequences get batches with nearly equal numbers of tokens, so that no rank
    waits for another: rows are sorted by length and assigned to the batches back and forth. A family that
    pads gets neighbours in length, which need the least padding.
    """
    order = rows[np.argsort(-examples.lengths[rows], kind="stable")]
    if examples.family == "encdec":
        return list(order[::-1].reshape(num_batches, -1))
    turns = order.reshape(-1, num_batches)
    turns[1::2] = turns[1::2, ::-1]
    return list(turns.T[:, ::-1])
