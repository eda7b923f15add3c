"""Stands in for a machine with GPUs: replaces the functions of `fpm_cli.cuda`."""

from dataclasses import dataclass, field

import pytest
import torch

from fpm_cli import cuda


@dataclass
class FakeGpus:
    """What the machine has, and which of its GPUs a rank has chosen."""

    num_gpus: int = 1
    free_bytes: int = 40_000_000_000
    peak_bytes: int = 0
    has_native_bf16: bool = True
    capability: tuple[int, int] = (8, 0)
    name: str = "NVIDIA A100-SXM4-40GB"
    cuda_version: str | None = "13.0"
    device: str = "cpu"  # what computes in its place
    chosen: list[int] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeGpus":
        """Replace the functions until the end of the test."""
        replaced = {
            "count": lambda: self.num_gpus,
            "default_device": lambda: torch.device(self.device),
            "torch_version": lambda: self.cuda_version,
            "name": lambda index: self.name,
            "capability": lambda: self.capability,
            "has_native_bf16": lambda: self.has_native_bf16,
            "set_device": self.chosen.append,
            "synchronize": lambda: None,
            "free_bytes": lambda index: self.free_bytes,
            "peak_bytes": lambda: self.peak_bytes,
            "reset_peak": lambda: None,
        }
        for name, function in replaced.items():
            monkeypatch.setattr(cuda, name, function)
        return self
