"""Whether using a run fits into the memory of this machine, and in which type its weights are used."""

import psutil
import torch

from fpm_cli import cuda
from fpm_cli.accounting.inference import InferenceMemory
from fpm_cli.errors import OutOfMemoryError

GIB = 2**30


def inference_dtype(device: torch.device) -> torch.dtype:
    """bf16 on GPUs that compute in it, as training does: half of the memory; float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" and cuda.has_native_bf16() else torch.float32


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses now."""
    if device.type == "cuda":
        return cuda.free_bytes(device.index or 0)
    return int(psutil.virtual_memory().available)


def require_memory(
    what: str, needed: InferenceMemory, device: torch.device, mend: str, *, loaded: bool = False
) -> None:
    """Refuse what does not fit, before anything is allocated.

    Args:
        what: the run, or what is done with it.
        needed: the plan.
        device: where.
        mend: what the user can do about it, other than a device with more memory.
        loaded: the weights are there already, and only the rest has to fit.

    Raises:
        OutOfMemoryError: names what is needed, for what, and what is free.
    """
    free = free_bytes(device)
    total = needed.total - (needed.weights if loaded else 0)
    if total <= free:
        return
    parts = {
        "weights": 0 if loaded else needed.weights,
        "keys and values": needed.cache,
        "activations": needed.activations,
        "logits": needed.logits,
    }
    listed = ", ".join(f"{name} {size / GIB:,.1f}" for name, size in parts.items() if size)
    where = cuda.name(device.index or 0) if device.type == "cuda" else "this machine"
    raise OutOfMemoryError(
        f"{what} needs {total / GIB:,.1f} GiB ({listed}) and {free / GIB:,.1f} GiB are free on {where}; "
        f"{mend}"
    )
