"""The placement of ranks: their number on this node, the node's rank, the address of the process group."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import psutil

from fpm_cli.errors import MissingError, UsageError

LOOPBACK = "127.0.0.1"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # that glibc takes
# Set by torchrun for each rank (torch/distributed/elastic/agent/server/local_elastic_agent.py), and so found
# in containers that some operator starts as its ranks.
RANK_VARIABLES = frozenset(
    {
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "NODE_RANK"),
    }
)
RANK_PREFIXES = ("TORCHELASTIC_", "PET_")


@dataclass(frozen=True)
class Placement:
    """`nproc` ranks on each of `nnodes` nodes, of which this is number `node_rank`.

    A port of 0 is any free one, which only a single node can choose by itself. `interface` is the network
    interface for gloo and NCCL; None is the one that reaches `master_addr`.
    """

    nproc: int = 1
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str = LOOPBACK
    master_port: int = 0
    interface: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.node_rank < self.nnodes:
            raise UsageError(
                f"--node-rank {self.node_rank}: 0 to {self.nnodes - 1}, as --nnodes is {self.nnodes}"
            )
        if self.nnodes > 1 and (self.master_addr == LOOPBACK or not self.master_port):
            raise UsageError("--nnodes above 1 needs --master-addr and --master-port, the same on every node")

    @property
    def is_main_node(self) -> bool:
        """Whether rank 0 runs here; this node makes the run folder and prints the progress."""
        return self.node_rank == 0

    @property
    def world_size(self) -> int:
        """Ranks over all nodes."""
        return self.nproc * self.nnodes

    @property
    def ranks(self) -> range:
        """The ranks that run here."""
        return range(self.node_rank * self.nproc, (self.node_rank + 1) * self.nproc)

    def rank_variables(self, rank: int, port: int) -> dict[str, str]:
        """The variables of torchrun that tell a process that it is rank `rank`."""
        values = {
            "RANK": rank,
            "LOCAL_RANK": rank - self.ranks.start,
            "WORLD_SIZE": self.world_size,
            "LOCAL_WORLD_SIZE": self.nproc,
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": port,
        }
        return {name: str(value) for name, value in values.items()}

    def environment(self, rank: int, port: int) -> dict[str, str]:
        """The whole environment of rank `rank`; what another launcher has set for its ranks is left out."""
        inherited = {name: value for name, value in os.environ.items() if not is_rank_variable(name)}
        return {**inherited, "PYTHONUTF8": "1", **self.rank_variables(rank, port)}


def is_rank_variable(name: str) -> bool:
    """Whether torchrun or a similar launcher sets this variable for its ranks."""
    return name in RANK_VARIABLES or name.startswith(RANK_PREFIXES)


@contextmanager
def single_process_environment() -> Iterator[None]:
    """Describe this process in its environment as the only rank, whatever it inherited; restored at the end.

    torch and DeepSpeed read the environment. Processes that are started later are not ranks of this group.

    Raises:
        UsageError: GLOO_SOCKET_IFNAME names no interface of this machine.
    """
    require_known_interfaces()
    configure_allocator()
    inherited = {name: os.environ.pop(name) for name in list(os.environ) if is_rank_variable(name)}
    with reserved_port() as port:
        own = Placement().rank_variables(0, port)
        os.environ.update(own)
        try:
            yield
        finally:
            for name in own:
                os.environ.pop(name, None)
            os.environ.update(inherited)


def set_rank_environment(interface: str | None) -> None:
    """Complete this rank's environment before torch reads it: its threads and its network interface.

    The rank does it itself, since DeepSpeed's launcher passes few variables on to other hosts. What the user
    has set is kept, but for `interface`, which takes precedence if it is given.

    Raises:
        UsageError: no such interface here.
        MissingError: no route to MASTER_ADDR.
    """
    local_world_size = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(int(local_world_size))))
    configure_allocator()
    for name in [name for name in os.environ if name.startswith(RANK_PREFIXES)]:
        del os.environ[name]  # of another launcher, around DeepSpeed's
    if interface:
        os.environ.update(GLOO_SOCKET_IFNAME=interface, NCCL_SOCKET_IFNAME=interface)
    require_known_interfaces("--interface" if interface else "GLOO_SOCKET_IFNAME")
    # gloo listens where the host's name resolves to, which is often not where the others look for it.
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        route = interface_towards(os.environ["MASTER_ADDR"])
        if route:
            os.environ["GLOO_SOCKET_IFNAME"] = route


def configure_allocator() -> None:
    """Choose how torch allocates for GPUs, unless the user has.

    Segments on the GPU grow, so that less is lost between tensors. Pinned host memory is not rounded up to a
    power of two, which would take up to twice the copy that a checkpoint is written from.
    """
    if {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        return
    options = ["expandable_segments:True"]
    if tuple(map(int, version("torch").split(".")[:2])) >= (2, 13):  # older ones refuse an unknown option
        options.append("pinned_max_round_threshold_mb:1")
    os.environ["PYTORCH_ALLOC_CONF"] = ",".join(options)


def require_known_interfaces(origin: str = "GLOO_SOCKET_IFNAME") -> None:
    """Check that the interfaces in GLOO_SOCKET_IFNAME exist; gloo would only fail to connect.

    Raises:
        UsageError: one does not; `origin` is where the user named it.
    """
    named = os.environ.get("GLOO_SOCKET_IFNAME", "")
    known = psutil.net_if_addrs()
    for name in filter(None, named.split(",")):
        if name not in known:
            raise UsageError(
                f"{origin} {name}: no network interface of {socket.gethostname()}, which has "
                f"{', '.join(known)}"
            )


def keep_freed_memory(*, large_blocks: bool) -> None:
    """Let glibc keep what tensors free instead of giving it back to the system, where glibc is the allocator.

    Every step allocates the same gradients again, in fresh pages that the kernel must clear: where the
    embeddings are half of the network, a tenth of the step.

    Args:
        large_blocks: also keep blocks above 32 MiB, which takes up to a fifth more memory in small networks.
            Without them, what is freed of smaller blocks alone is kept.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and not any(
        name.startswith("MALLOC_") for name in os.environ
    ):  # the user has set the allocator
        if large_blocks:
            mallopt(M_MMAP_MAX, 0)
        else:
            mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def usable_cores() -> int:
    """The cores that this process may use, where the system tells (Linux); else all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_process(nproc: int) -> int:
    """The cores that this process may use, shared out; each rank would start a thread for all of them.

    Two ranks of two threads on two busy cores take twenty times as long a step as two of one.
    """
    return max(1, usable_cores() // nproc)


def interface_towards(address: str) -> str | None:
    """The network interface whose address this machine would use to talk to `address`.

    Raises:
        MissingError: its name is unknown here, or no route leads there.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # UDP: nothing is sent
            own = probe.getsockname()[0]
    except OSError as error:
        raise MissingError(f"{address} cannot be reached from {socket.gethostname()}: {error}") from error
    for name, addresses in psutil.net_if_addrs().items():
        if any(str(found.address).partition("%")[0] == own for found in addresses):
            return str(name)
    return None


@contextmanager
def reserved_port() -> Iterator[int]:
    """A TCP port of this machine that the kernel gives to nobody else meanwhile.

    It is bound and not listened on: whoever asks for it by number, with SO_REUSEADDR as torch's store does,
    may listen there seconds later; sockets that take any free port get another one (Linux,
    net/ipv4/inet_connection_sock.c).
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((LOOPBACK, 0))
        yield int(held.getsockname()[1])
