"""Two ranks that start in a moment: they beat as real ones do, and then do what a test wants."""

import os
import sys
import textwrap
from pathlib import Path

from fpm_cli.launch.placement import Placement
from fpm_cli.launch.ranks import Ranks

PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from fpm_cli.launch.heartbeat import Heartbeat, set_parent_death_signal
from fpm_cli.launch.shutdown import ShutdownRequest
rank, logs, parent = int(os.environ["RANK"]), Path(sys.argv[1]), int(sys.argv[2])
set_parent_death_signal(parent)
shutdown = ShutdownRequest().__enter__()
heartbeat = Heartbeat(shutdown, logs, rank, 0.1)
heartbeat.step = 7
heartbeat.__enter__()
time.sleep(0.2)


def moment() -> None:
    (logs / "moment").write_text(str(time.monotonic()))
"""


def ranks(logs: Path, behaviour: str) -> Ranks:
    """Two ranks that run `behaviour` after the prelude."""
    script = PRELUDE + textwrap.dedent(behaviour)
    return Ranks([sys.executable, "-c", script, str(logs), str(os.getpid())], Placement(2), logs)
