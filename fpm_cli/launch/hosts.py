"""Several hosts: DeepSpeed's hostfile (`host slots=N`), the first one's address, whether ssh reaches them."""

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
    """The processes to start on each host, in the file's order; rank 0 is on the first.

    Raises:
        MissingError: no such file.
        UsageError: a line that is not `host slots=N`, a host named twice, or no host at all; says where.
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
            raise UsageError(f"{path}, line {number}: {host} is named twice; add up its slots in one line")
        hosts[host] = int(slots)
    if not hosts:
        raise UsageError(f"{path}: names no host; a line of it is `worker-1 slots=8`")
    return hosts


def first_host_address(hosts: Mapping[str, int]) -> str:
    """The address of the first host, as the others must see it.

    Raises:
        UsageError: its name is unknown, or names this machine's loopback, which others cannot reach.
    """
    first = next(iter(hosts))
    try:
        address = str(socket.getaddrinfo(first, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise UsageError(f"host {first}: {error.strerror or error}; is its name right?") from error
    if address.startswith("127.") and len(hosts) > 1:
        raise UsageError(f"host {first} is {address} here, which the others cannot reach; give --master-addr")
    return address


def require_programs(programs: Iterable[str], launcher: str) -> None:
    """Check that the programs are installed.

    Raises:
        MissingError: names the first that is not there.
    """
    for program in find_missing(programs):
        raise MissingError(
            f"--launcher {launcher} needs `{program}`, which is not installed here; "
            "without it, start fpm on each node: --nnodes, --node-rank, --master-addr, --master-port"
        )


def require_reachable(hosts: Iterable[str]) -> None:
    """Try every host by ssh, all at the same time, without asking for a password.

    Raises:
        MissingError: names those that do not answer, with ssh's own words.
    """
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}"]

    def try_host(host: str) -> str | None:
        """What is wrong with it, if anything."""
        try:
            ssh = run_program(["ssh", *options, host, "true"], timeout_seconds=3 * SSH_SECONDS)
        except subprocess.TimeoutExpired:
            return f"{host}: no answer within {3 * SSH_SECONDS} s"
        reason = ssh.stderr.strip().split("\n")[-1] or f"ssh ended with status {ssh.returncode}"
        return f"{host}: {reason}" if ssh.returncode else None

    with ThreadPoolExecutor(32) as pool:
        problems = [problem for problem in pool.map(try_host, hosts) if problem]
    if problems:
        raise MissingError("\n  ".join(["hosts that ssh does not reach without a password:", *problems]))
