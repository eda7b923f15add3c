"""Runs that compute the same bits each time, also on GPUs, where some kernels add in any order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS reads it when its first matrix product runs


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """While open, use kernels whose results do not depend on the order in which threads finish.

    On a CPU all of them are. On a GPU torch chooses slower ones for the gradients of embeddings, indexing and
    attention, and raises RuntimeError where it has none; fpm's own CUDA operators use no atomics.
    """
    if not enabled:
        yield
        return
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # every buffer is written before it is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]
