"""The GPUs that torch sees in this process: the only file that calls `torch.cuda`, so that a test can stand
in for a machine with GPUs (`tests/fake_gpus.py`).

Asking most of these creates a context of hundreds of megabytes on a GPU; a process that only launches ranks
asks `fpm_cli.launch.gpus` instead.
"""

import torch


def count() -> int:
    """How many GPUs torch can use here; 0 without a GPU, a driver or a torch for CUDA."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def default_device() -> torch.device:
    """The current GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if count() else torch.device("cpu")


def torch_version() -> str | None:
    """The CUDA version that torch was built for; None for a torch without CUDA."""
    return torch.version.cuda


def name(index: int) -> str:
    """The GPU's own name."""
    return torch.cuda.get_device_name(index)


def capability() -> tuple[int, int]:
    """Compute capability of the current GPU, (8, 0) for sm_80."""
    return torch.cuda.get_device_capability()


def has_native_bf16() -> bool:
    """Whether the current GPU computes in bf16 itself; V100 only emulates it, which is slower than fp32."""
    return bool(count()) and torch.cuda.is_bf16_supported(including_emulation=False)


def set_device(index: int) -> None:
    """Make a GPU this thread's current one."""
    torch.cuda.set_device(index)


def synchronize() -> None:
    """Wait until the current GPU has computed everything that it was given."""
    torch.cuda.synchronize()


def free_bytes(index: int) -> int:
    """Free memory of a GPU, whoever uses the rest."""
    return int(torch.cuda.mem_get_info(index)[0])


def peak_bytes() -> int:
    """The most memory that tensors took on the current GPU since `reset_peak`, without torch's cache."""
    return int(torch.cuda.max_memory_allocated())


def reset_peak() -> None:
    """Start a new measurement for `peak_bytes`."""
    torch.cuda.reset_peak_memory_stats()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`; to a GPU through pinned memory, which lets the host continue meanwhile."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def query() -> dict[str, int | bool]:
    """What `fpm_cli.launch.gpus` asks a process of its own: `count`, `free_bytes` of the fullest GPU,
    `has_native_bf16`.
    """
    free = min((free_bytes(index) for index in range(count())), default=0)
    return {"count": count(), "free_bytes": free, "has_native_bf16": has_native_bf16()}
