"""The most memory that a process has held."""

import subprocess
import sys

TOLERANCE = 2**22  # the kernel counts pages for each core, and adds them up from time to time
ALLOCATE_AND_FREE = """
import torch
from fpm_cli.engine.memory import peak_memory_bytes

cpu = torch.device("cpu")
before = peak_memory_bytes(cpu)
tensor = torch.ones(2**26)
with_tensor = peak_memory_bytes(cpu)
del tensor
print(before, with_tensor, peak_memory_bytes(cpu))
"""


def test_the_peak_of_a_cpu_process_stays_after_memory_is_freed() -> None:
    done = subprocess.run([sys.executable, "-c", ALLOCATE_AND_FREE], capture_output=True, text=True)
    before, with_tensor, after = map(int, done.stdout.split())
    assert abs(with_tensor - before - 2**28) < 2 * TOLERANCE
    assert abs(after - with_tensor) < TOLERANCE
