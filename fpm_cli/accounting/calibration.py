"""How fast this machine multiplies: a short measured run, so that its peak is known and not guessed."""

import time
from dataclasses import replace

from fpm_cli.accounting.devices import Device

PROBE_SIZE = 768  # 3 x 2.4 MB of float32: past the first caches, 6 ms at 150 GFLOP/s
PROBE_SECONDS = 0.15


def measure_matmul_flops() -> float:
    """FLOP/s of float32 matrix products on this machine's processor, the best of a few tries."""
    import numpy as np

    a = np.ones((PROBE_SIZE, PROBE_SIZE), np.float32)
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        before = time.perf_counter()
        a @ a
        best = max(best, 2 * PROBE_SIZE**3 / (time.perf_counter() - before))
    return best


def with_measured_peak(device: Device) -> Device:
    """The same device with the float32 peak that this machine shows now."""
    return replace(
        device,
        peak_flops={"fp32": measure_matmul_flops()},
        source="this machine: float32 matrix products measured just now",
    )
