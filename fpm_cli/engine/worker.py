"""One rank of a launch of several: `python -m fpm_cli.engine.worker MODULE:WORKLOAD RUN`, started by `launch.py`."""

import importlib
import sys
from pathlib import Path

from fpm_cli.engine.run import Run
from fpm_cli.engine.train import train
from fpm_cli.errors import FpmError, StoppedError


def main(arguments: list[str]) -> int:
    """Train as the rank that the environment names; the exit status is the error's."""
    name, path, *flags = arguments
    module, _, workload = name.partition(":")
    try:
        train(
            Run.open(Path(path)), getattr(importlib.import_module(module), workload), quiet="--quiet" in flags
        )
    except StoppedError as stopped:  # the launcher says so once for all ranks
        return stopped.exit_status
    except FpmError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
