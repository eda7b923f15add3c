"""Runs a program as several gloo ranks and returns what each of them printed last, as JSON."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def run_ranks(
    program: str, arguments: Sequence[str], num_ranks: int, *, ranks_per_host: int = 0, seconds: float = 300
) -> list[Any]:
    """The last line of each rank's output; `ranks_per_host` is what their environment says, by default all.

    Args:
        program: Python source.
        arguments: of the program.
        num_ranks: processes, all on this machine.
        ranks_per_host: LOCAL_WORLD_SIZE.
        seconds: after which the test fails.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    per_host = ranks_per_host or num_ranks
    world = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(per_host)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank % per_host)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        outputs = [rank.communicate(timeout=seconds) for rank in ranks]
    finally:
        for process in ranks:
            process.kill()
    for process, (_, error) in zip(ranks, outputs, strict=True):
        assert process.returncode == 0, error
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]
