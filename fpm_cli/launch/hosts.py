"""Several hosts: DeepSpeed's hostfile (`host slots=N`), which of them leads, whether they can be reached."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fpm_cli.errors import MissingError, UsageError

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
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
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
    """Refuse to begin without them.

    Raises:
        MissingError: names the first that is not there.
    """
    for program in programs:
        if shutil.which(program) is None:
            raise MissingError(
                f"--launcher {launcher} needs `{program}`, which is not installed here; "
                "without it, start fpm on each node: --nnodes, --node-rank, --master-addr, --master-port"
            )


def require_reachable(hosts: Iterable[str]) -> None:
    """Try every host by ssh at once, without asking for a password.

    Raises:
        MissingError: names those that do not answer, with ssh's own words.
    """
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}"]

    def complaint(host: str) -> str | None:
        try:
            tried = subprocess.run(
                ["ssh", *options, host, "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=3 * SSH_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"{host}: no answer within {3 * SSH_SECONDS} s"
        words = tried.stderr.strip().split("\n")[-1] or f"ssh ended with status {tried.returncode}"
        return f"{host}: {words}" if tried.returncode else None

    with ThreadPoolExecutor(32) as pool:
        complaints = [found for found in pool.map(complaint, hosts) if found]
    if complaints:
        raise MissingError("\n  ".join(["hosts that ssh does not reach without a password:", *complaints]))
