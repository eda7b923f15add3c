"""Several hosts: DeepSpeed's hostfile (`host slots=N`), the first host's address, a check of ssh."""

import re
import socket
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fpm_cli.errors import MissingError, UsageError
from fpm_cli.programs import find_missing, run_program

LINE = re.compile(r"(\S+)\s+slots=([1-9]\d*)\s*(?:#.*)?")
SSH_SECONDS = 10


def read_hostfile(path: Path) -> dict[str, int]:
    """The number of processes per host, in the order of the file; rank 0 is on the first host.

    Raises:
        MissingError: there is no such file.
        UsageError: a line is not `host slots=N`, a host is named twice, or there is no host; names the line.
    """
    if not path.is_file():
        raise MissingError(f"--hostfile {path}: no such file; a line of it is `worker-1 slots=8`")
    hosts: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None:
            raise UsageError(f"{path}, line {number}: {line.strip()!r} is not `host slots=N`")
        host, slots = match.groups()
        if host in hosts:
            raise UsageError(
                f"{path}, line {number}: {host} is named twice; write one line with the sum of its slots"
            )
        hosts[host] = int(slots)
    if not hosts:
        raise UsageError(f"{path}: names no host; a line of it is `worker-1 slots=8`")
    return hosts


def first_host_address(hosts: Mapping[str, int]) -> str:
    """The address under which the other hosts reach the first one.

    Raises:
        UsageError: its name is unknown, or is a loopback address, which other hosts cannot reach.
    """
    first = next(iter(hosts))
    try:
        address = str(socket.getaddrinfo(first, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise UsageError(f"host {first}: {error.strerror or error}; is the name correct?") from error
    if address.startswith("127.") and len(hosts) > 1:
        raise UsageError(f"host {first} is {address} here, which other hosts cannot reach; add --master-addr")
    return address


def require_programs(programs: Iterable[str], launcher: str) -> None:
    """Check that the programs are installed.

    Raises:
        MissingError: names the first one that is missing.
    """
    for program in find_missing(programs):
        raise MissingError(
            f"--launcher {launcher} needs `{program}`, which is not installed here; "
            "without it, start fpm on each node: --nnodes, --node-rank, --master-addr, --master-port"
        )


def require_reachable(hosts: Iterable[str]) -> None:
    """Connect to all hosts by ssh at the same time, without asking for a password.

    Raises:
        MissingError: names the hosts that cannot be reached, with ssh's messages.
    """
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}"]

    def try_host(host: str) -> str | None:
        """The reason why the host cannot be reached, or None."""
        try:
            ssh = run_program(["ssh", *options, host, "true"], timeout_seconds=3 * SSH_SECONDS)
        except subprocess.TimeoutExpired:
            return f"{host}: no answer within {3 * SSH_SECONDS} s"
        reason = ssh.stderr.strip().split("\n")[-1] or f"ssh ended with status {ssh.returncode}"
        return f"{host}: {reason}" if ssh.returncode else None

    with ThreadPoolExecutor(32) as pool:
        problems = [problem for problem in pool.map(try_host, hosts) if problem]
    if problems:
        raise MissingError("\n  ".join(["hosts that ssh cannot reach without a password:", *problems]))
