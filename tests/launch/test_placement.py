"""The port where the ranks of one node meet is theirs from the moment it is chosen."""

import errno
import json
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from fpm_cli.launch.placement import LOOPBACK, reserved_port

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")
EVERY_PORT = """
import json, socket, subprocess
from fpm_cli.launch.placement import LOOPBACK, reserved_port

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as ports:
    ports.write("40000 40007")
listening = socket.create_server((LOOPBACK, 999), backlog=50)

def taken(take):
    found = []
    try:
        while True:
            found.append(socket.socket())
            take(found[-1])
    except OSError:
        return [one.getsockname()[1] for one in found[:-1]]

def share(one):
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((LOOPBACK, 0))

with reserved_port() as port:
    ways = lambda one: one.bind((LOOPBACK, 0)), share, lambda one: one.connect((LOOPBACK, 999))
    print(json.dumps([port, *map(taken, ways)]))
"""


def test_torch_meets_at_a_reserved_port_and_nobody_else_binds_it() -> None:
    with reserved_port() as port, reserved_port() as other:
        assert port != other
        with socket.socket() as stranger, pytest.raises(OSError) as refused:
            stranger.bind((LOOPBACK, port))
        assert refused.value.errno == errno.EADDRINUSE
        store = TCPStore(LOOPBACK, port, 1, is_master=True, timeout=timedelta(seconds=10))
        guest = TCPStore(LOOPBACK, port, 1, is_master=False, timeout=timedelta(seconds=10))
        store.set("met", "here")
        assert guest.get("met") == b"here"


def test_the_kernel_gives_every_free_port_but_a_reserved_one() -> None:
    if subprocess.run([*NAMESPACE, "ip", "link"], capture_output=True).returncode:
        pytest.skip("this system lets a test make no network of its own")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", EVERY_PORT], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    port, *taken = json.loads(done.stdout)
    assert len(taken) == 3
    for ports in taken:
        assert set(ports) == set(range(40000, 40008)) - {port}
