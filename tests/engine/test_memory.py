"""The most memory that a process has held."""

import psutil
import torch

from fpm_cli.engine.memory import peak_memory_bytes

CPU = torch.device("cpu")
TOLERANCE = 2**22  # the kernel counts pages for each core, and adds them up from time to time


def test_the_peak_of_a_cpu_process_stays_after_memory_is_freed() -> None:
    before = peak_memory_bytes(CPU)
    elements = (before - psutil.Process().memory_info().rss) // 4 + 2**23  # 32 MiB above the peak so far
    tensor = torch.ones(elements)
    with_tensor = peak_memory_bytes(CPU)
    assert with_tensor > before + TOLERANCE
    del tensor
    assert peak_memory_bytes(CPU) > with_tensor - TOLERANCE
