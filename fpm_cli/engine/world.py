"""The process group: which rank this is, on which device, and the sums and barriers over all ranks."""

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch.nn import functional

from fpm_cli import cuda
from fpm_cli.errors import MissingError, UsageError
from fpm_cli.launch.gpus import NVIDIA_DEVICE
from fpm_cli.launch.placement import single_process_environment

GLOO_RELEASE_SECONDS = 0.1


@dataclass(frozen=True)
class World:
    """Rank, size and device of this process, the process group being up."""

    rank: int
    size: int
    device: torch.device
    local_size: int = 1  # ranks on this machine

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the shared files and the log: rank 0."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums of these numbers over all ranks, in float64."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        return [float(number) for number in self.sum_on_device(total).tolist()]

    def sum_on_device(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sums of a tensor on this rank's device, in place, without waiting for them."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum([float(flag)])[0] > 0

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        if self.size > 1:
            dist.barrier()

    @property
    def device_name(self) -> str:
        """The accelerator's own name, or `cpu`."""
        return cuda.name(self.device.index) if self.device.type == "cuda" else "cpu"


def device_count() -> int:
    """How many processes a launch starts by default: one per GPU, or one for the CPU."""
    return cuda.count() or 1


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device is a GPU that computes in bf16 without emulation, which is slower than fp32."""
    return device.type == "cuda" and cuda.has_native_bf16()


@contextmanager
def distributed_world(timeout_seconds: float, *, launched: bool = False) -> Iterator[World]:
    """The process group of this launch: of this process alone, or with `launched` of all its ranks.

    Ranks are described by their environment; a single process ignores what it inherited there.

    Raises:
        MissingError: not all ranks joined within the timeout.
    """
    linear = functional.linear  # DeepSpeed's ZeRO 3 replaces it in the whole process
    with nullcontext() if launched else single_process_environment():
        device = _rank_device(int(os.environ["LOCAL_RANK"]))
        if device.type == "cuda":
            os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed takes it for the device's number
        try:
            _init_deepspeed("nccl" if device.type == "cuda" else "gloo", timedelta(seconds=timeout_seconds))
            local_size = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            yield World(rank, size, device, int(local_size))
        finally:
            functional.linear = linear
            _leave_deepspeed()


def _rank_device(local_rank: int) -> torch.device:
    """This rank's GPU, or the CPU where there is none; a launcher may show each rank only its own GPU.

    Raises:
        MissingError: the machine has a GPU that torch cannot use, for instance with too old a driver.
        UsageError: there are more ranks on this machine than GPUs.
    """
    num_gpus = cuda.count()
    if not num_gpus:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        if NVIDIA_DEVICE.exists() and cuda.torch_version() and not hidden:
            raise MissingError(
                f"{NVIDIA_DEVICE} is there, but torch {torch.__version__} sees no GPU: its driver may be too "
                "old for this torch (see `nvidia-smi`); CUDA_VISIBLE_DEVICES= trains on the CPU"
            )
        return torch.device("cpu")
    if num_gpus > 1 and local_rank >= num_gpus:
        raise UsageError(f"--nproc: rank {local_rank} of this machine has no GPU, there are {num_gpus}")
    device = torch.device("cuda", local_rank % num_gpus)
    cuda.set_device(device.index)
    return device


def _init_deepspeed(backend: str, timeout: timedelta) -> None:
    """Start DeepSpeed's process group; its default backend on the CPU would need oneCCL."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if backend == "nccl" else "cpu")
    # DeepSpeed's own calls; nothing that a user of fpm can change.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    import deepspeed

    # An all-reduce for inference that DeepSpeed compiles at first use, for half a minute; a process killed
    # during that time would leave a lock on which every later one waits. Training never calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    try:
        deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)
    except RuntimeError as error:  # torch's rendezvous: timed out or refused
        where = "{MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ)
        raise MissingError(
            f"the {os.environ['WORLD_SIZE']} ranks did not all meet at {where} within "
            f"{timeout.total_seconds():g} s; is every node started, and is that address node 0's? "
            f"({str(error).splitlines()[0]})"
        ) from error
    # DeepSpeed computes in a copy of the process group, and gives its own groups torch's default timeout.
    deepspeed.comm.comm.cdb.new_group = partial(dist.new_group, timeout=timeout)


def _leave_deepspeed() -> None:
    """End the process group: gloo's threads abort a process that exits while they still run.

    DeepSpeed's engines keep their groups alive, so destroying the group joins no thread. A thread that has
    finished a collective and waits for the GIL to release its tensors gets it during the sleep; if it asked
    after Python began to finalise, the thread would be ended and the process aborted (SIGABRT).
    """
    import deepspeed

    if dist.is_initialized() and dist.get_backend() == "gloo":  # NCCL would wait for a dead peer
        deepspeed.comm.destroy_process_group()
        time.sleep(GLOO_RELEASE_SECONDS)
