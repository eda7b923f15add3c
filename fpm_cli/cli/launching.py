"""The flags that place a training: on this machine, on several, through DeepSpeed or SLURM."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fpm_cli.cli.console import show, show_json, verbosity
from fpm_cli.cli.numbers import MAX_PROCESSES
from fpm_cli.config.sections import MAX_COUNT
from fpm_cli.errors import UsageError
from fpm_cli.launch.hosts import first_host_address, read_hostfile, require_programs, require_reachable
from fpm_cli.launch.placement import LOOPBACK, Placement, interface_towards
from fpm_cli.launch.shutdown import stop_immediately_on_signal
from fpm_cli.launch.slurm import batch_script, submit
from fpm_cli.runs.run import Run

if TYPE_CHECKING:
    from fpm_cli.engine.workload import Workload

MASTER_PORT = 29500  # the default of torch and DeepSpeed
READY_SECONDS = 600.0  # node 0 may first build a sample corpus


class Launcher(StrEnum):
    """What starts the ranks."""

    local = "local"
    deepspeed = "deepspeed"
    slurm = "slurm"


NprocFlag = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_PROCESSES, help="Processes on this machine; by default one per GPU, or one."),
]
LauncherFlag = Annotated[
    Launcher,
    typer.Option(
        help="local: fpm, on this node; deepspeed: on the hosts of --hostfile; slurm: as a SLURM job."
    ),
]
HostfileFlag = Annotated[
    Path | None, typer.Option(help="With --launcher deepspeed: a file with one line `host slots=N` per host.")
]
NnodesFlag = Annotated[
    int,
    typer.Option(
        min=1,
        max=MAX_COUNT,
        help="Number of nodes; each runs fpm with the same flags and its own --node-rank.",
    ),
]
NodeRankFlag = Annotated[
    int, typer.Option(min=0, max=MAX_COUNT, help="The rank of this node; node 0 creates the run folder.")
]
MasterAddrFlag = Annotated[
    str | None,
    typer.Option(
        help="Address at which other nodes reach node 0; with a hostfile, by default its first host."
    ),
]
MasterPortFlag = Annotated[
    int | None, typer.Option(min=1, max=65535, help=f"Port on node 0; by default {MASTER_PORT}.")
]
InterfaceFlag = Annotated[
    str | None,
    typer.Option(help="Network interface of gloo and NCCL; by default the one that reaches node 0."),
]
LauncherArgFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--launcher-arg", help="Passed to deepspeed or sbatch, for example --time=24:00:00; may be repeated."
    ),
]


@dataclass(frozen=True)
class Launching:
    """The values of these flags, and the verb that they were given to."""

    verb: str
    launcher: Launcher
    nproc: int | None  # on each node
    hostfile: Path | None
    nnodes: int
    node_rank: int
    master_addr: str | None
    master_port: int | None
    interface: str | None
    extra: list[str]

    def __post_init__(self) -> None:
        if (self.launcher is Launcher.deepspeed) != (self.hostfile is not None):
            raise UsageError("--hostfile and --launcher deepspeed belong together")
        if self.extra and self.launcher is Launcher.local:
            raise UsageError("--launcher-arg needs --launcher deepspeed or slurm, to which it is passed")
        if self.launcher is Launcher.slurm and self.nproc is None:
            raise UsageError("--launcher slurm needs --nproc, the processes per node: one per GPU")
        if self.launcher is Launcher.local:
            self._placement(self.nproc or 1)  # refuses contradictory flags

    @property
    def is_main_node(self) -> bool:
        """Whether this node creates the run folder and prints messages."""
        return self.node_rank == 0

    def world_size(self, nproc: int) -> int:
        """The number of ranks over all nodes, with `nproc` on this one."""
        return sum(self._hosts().values()) if self.hostfile else nproc * self.nnodes

    def require_hosts(self) -> None:
        """Check that DeepSpeed's launcher will reach all hosts, before it starts ranks on some of them.

        Raises:
            MissingError: ssh or pdsh is not installed, or a host cannot be reached.
        """
        if self.hostfile:
            hosts = self._hosts()
            require_programs(["ssh", "pdsh"], "deepspeed")
            require_reachable(hosts)

    def script(self, begin: Sequence[str], out: Path, *, gpus: bool) -> str:
        """The script that starts the run: for SLURM a batch script, for DeepSpeed its command, else empty.

        `begin` are the verb's flags for a new run, without `--out`; `gpus` requests one GPU per process of
        SLURM.
        """
        if self.launcher is Launcher.local:
            return ""
        if self.launcher is Launcher.deepspeed:
            creating = shlex.join(["fpm", self.verb, *begin, "--out", str(out)])
            command = shlex.join(self._deepspeed_command(out, []))
            return f"# in a run folder, which `{creating}` with this launcher creates:\n{command}"
        assert self.nproc
        return batch_script(
            fpm=[sys.executable, "-m", "fpm_cli"],
            verb=self.verb,
            begin=begin,
            out=out.resolve(),
            nnodes=self.nnodes,
            nproc=self.nproc,
            interface=self.interface,
            options=[*([f"--gpus-per-node={self.nproc}"] if gpus else []), *self.extra],
        )

    def submit(self, script: str, as_json: bool) -> None:
        """Submit a script to SLURM and show the job."""
        answer = submit(script)
        if as_json:
            show_json(self.verb, {"submitted": answer, "script": script})
        else:
            show(answer)

    def train(self, run: Run, began: float, workload_type: "type[Workload] | None" = None) -> None:
        """Start the ranks of an existing run and supervise them until they end."""
        if self.launcher is Launcher.deepspeed:
            from fpm_cli.engine.local_launch import worker_flags
            from fpm_cli.launch.deepspeed_launch import supervise

            self.require_hosts()
            command = self._deepspeed_command(
                run.path, worker_flags(workload_type, quiet=verbosity.quiet, began=began)
            )
            supervise(run, command, self.world_size(0), run.config().engine.timeout_seconds)
        else:
            from fpm_cli.engine.local_launch import launch
            from fpm_cli.engine.world import device_count

            nproc = self.nproc or (run.last_world_size() or 0) // self.nnodes or device_count()
            launch(run, self._placement(nproc), workload_type, quiet=verbosity.quiet, began=began)

    def follow(self, out: Path | None, began: float, workload_type: "type[Workload] | None" = None) -> None:
        """Start the ranks of this node in the run folder that node 0 creates or continues."""
        if out is None:
            raise UsageError("--node-rank above 0 needs --out, the run folder that node 0 creates")
        if self.master_addr:
            interface_towards(self.master_addr)  # refuses a wrong address before minutes of waiting
        with stop_immediately_on_signal("stopped before training; start every node again to continue"):
            self.train(Run.wait_until_ready(out, READY_SECONDS), began, workload_type)

    def _placement(self, nproc: int) -> Placement:
        port = self.master_port or (MASTER_PORT if self.nnodes > 1 else 0)
        address = self.master_addr or LOOPBACK
        return Placement(nproc, self.nnodes, self.node_rank, address, port, self.interface)

    def _hosts(self) -> dict[str, int]:
        assert self.hostfile
        return read_hostfile(self.hostfile)

    def _deepspeed_command(self, run: Path, flags: Sequence[str]) -> list[str]:
        from fpm_cli.launch.deepspeed_launch import deepspeed_command

        assert self.hostfile
        address = self.master_addr or first_host_address(self._hosts())
        interface = ["--interface", self.interface] if self.interface else []
        worker = ["fpm_cli.engine.worker", str(run.resolve()), "--own-log", *interface, *flags]
        port = self.master_port or MASTER_PORT
        return deepspeed_command(self.hostfile.resolve(), address, port, worker, self.extra)
