"""Bytes that all ranks of one host need together in its memory."""

from dataclasses import asdict, dataclass

from fpm_cli.accounting.memory import DeviceMemory

# A process with torch, CUDA, NCCL and DeepSpeed; assumed, no card was at hand.
GPU_PROCESS = 3_000_000_000


@dataclass(frozen=True)
class HostMemory:
    """By part, over the ranks of one host. On a CPU a rank's whole peak is `ranks`."""

    local_ranks: int
    ranks: int  # the processes themselves
    offloaded: int  # optimizer states, gradients and parameters under `engine.offload`
    staged: int  # what passes through host memory while the ranks start
    save_copies: int  # what checkpoints are written from behind the next steps, page-locked on GPUs

    @property
    def needed(self) -> int:
        """What training does not go without; a save without its copy holds training up instead."""
        return self.ranks + self.offloaded + self.staged

    @property
    def total(self) -> int:
        """The peak: nothing is staged any more when the first checkpoint is saved."""
        return self.ranks + self.offloaded + max(self.staged, self.save_copies)

    def document(self) -> dict[str, int]:
        """For `--json`."""
        return asdict(self)


def host_memory(memory: DeviceMemory, local_ranks: int, *, cpu: bool) -> HostMemory:
    """What `local_ranks` ranks with this plan need on their host.

    Args:
        memory: of one rank.
        local_ranks: on the host.
        cpu: whether the ranks run on the processor.
    """
    if cpu:
        return HostMemory(
            local_ranks, local_ranks * memory.needed, 0, 0, save_copies=local_ranks * memory.save_copy
        )
    return HostMemory(
        local_ranks=local_ranks,
        ranks=local_ranks * GPU_PROCESS,
        offloaded=local_ranks * memory.host,
        staged=local_ranks * memory.staged,
        save_copies=local_ranks * memory.save_copy,
    )
