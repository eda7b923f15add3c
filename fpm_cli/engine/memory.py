"""The most memory that this process has held."""

import resource
import sys
from pathlib import Path

import torch

from fpm_cli import cuda

STATUS = Path("/proc/self/status")


def peak_memory_bytes(device: torch.device) -> int:
    """The most that tensors took on a GPU, or the largest resident set of this process on a CPU."""
    if device.type == "cuda":
        return cuda.peak_bytes()
    if STATUS.is_file():  # getrusage's value also covers the program that started this one
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
