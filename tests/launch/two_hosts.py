"""Two hosts on one machine: network namespaces joined by a cable, each with an address of its own.

There is no sshd in a namespace, so `ssh` and `pdsh` are stand-ins that enter it; all else is as on two
machines that share a file system.
"""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# ssh [-o X]... HOST COMMAND...
SSH = """#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
host=$1; shift
exec ip netns exec "$host" sh -c "$*"
"""
# pdsh -S -f N -w HOST,HOST COMMAND..., with %n for the number of the host; the worst status of all
PDSH = """#!/bin/sh
hosts=$5; shift 5
number=0; pids=; worst=0
for host in $(echo "$hosts" | tr , ' '); do
    ip netns exec "$host" sh -c "$(echo "$*" | sed "s/%n/$number/g")" &
    pids="$pids $!"; number=$((number + 1))
done
for pid in $pids; do wait $pid; status=$?; [ $status -gt $worst ] && worst=$status; done
exit $worst
"""


@dataclass(frozen=True)
class TwoHosts:
    """The namespaces' names and addresses, and a folder of programs that reach them."""

    names: tuple[str, str]
    addresses: tuple[str, str]
    programs: Path

    def on(self, host: int, command: list[str]) -> list[str]:
        """The command, as typed on that host."""
        return ["ip", "netns", "exec", self.names[host], *command]


@contextmanager
def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Make them and take them down again; skips the test where that is not allowed."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two hosts on one machine need root and iproute2")
    tag = f"fpm{os.getpid() % 100_000}"
    names, addresses = (f"{tag}a", f"{tag}b"), ("10.213.0.1", "10.213.0.2")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", f"{tag}x", "netns", names[0], "type", "veth", "peer", f"{tag}y", "netns", names[1])
        for name, end, address in zip(names, "xy", addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", f"{tag}{end}")
            _ip("-n", name, "link", "set", f"{tag}{end}", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        for program, text in (("ssh", SSH), ("pdsh", PDSH)):
            path = folder / program
            path.write_text(text)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        yield TwoHosts(names, addresses, folder)
    except _NotAllowed as error:
        pytest.skip(f"no network namespaces here: {error}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


class _NotAllowed(Exception):
    pass


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise _NotAllowed(done.stderr.strip())
