"""Batches on a device, and the loading of the next step's while the current one trains."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fpm_cli import cuda
from fpm_cli.objectives.base import Samples
from fpm_cli.objectives.collate import collate
from fpm_cli.objectives.unpad import unpad

Batch = dict[str, Tensor]


MASKS = ("attention_mask", "encoder_mask")


def load_batch(samples: Samples, indices: range, device: torch.device) -> Batch:
    """Collate the samples at `indices` into tensors on `device`.

    What a device would have to report to the host is found here: a mask that masks nothing is left out, so
    that attention needs none, a BERT's batch that has padding becomes a packed stream, whose `lengths` stay
    on the CPU, and `masked_positions` (int64) are those of the words that a BERT predicts.
    """
    arrays = collate([samples[index] for index in indices])
    arrays = {name: array for name, array in arrays.items() if name not in MASKS or not array.all()}
    if "attention_mask" in arrays:
        arrays = unpad(arrays)
    if "token_types" in arrays:
        arrays["masked_positions"] = np.flatnonzero(arrays["loss_mask"])
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {
        name: tensor if name == "lengths" else cuda.to_device(tensor, device)
        for name, tensor in tensors.items()
    }


class BatchPrefetcher:
    """This rank's micro-batches of any global batch; those of the following one are loaded in a thread.

    Which samples a global batch has is a function of its index alone, so a resumed or rewound run just asks
    for another index.
    """

    def __init__(self, load: Callable[[int], list[Batch]]):
        """`load` makes this rank's micro-batches of the global batch of an index (the first is 0)."""
        self._load = load
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fpm-batches")
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def get(self, index: int) -> list[Batch]:
        """The micro-batches of global batch `index`; starts to load those of `index + 1`."""
        following = self._next
        if following is None or following[0] != index:
            following = index, self._pool.submit(self._load, index)
        batches = following[1].result()
        self._next = index + 1, self._pool.submit(self._load, index + 1)
        return batches

    def close(self) -> None:
        """Wait for the thread to end."""
        self._pool.shutdown(cancel_futures=True)
