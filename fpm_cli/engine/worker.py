"""One rank of a launch of several: `python -m fpm_cli.engine.worker MODULE:CLASS RUN`."""

import importlib
import sys
from pathlib import Path

from fpm_cli.engine.run import Run
from fpm_cli.engine.train import train
from fpm_cli.errors import FpmError, StoppedError


def main(arguments: list[str]) -> int:
    """Train as the rank that the environment names; the exit status is the error's."""
    name, path, *flags = arguments
    module, _, class_ = name.partition(":")
    workload_type = getattr(importlib.import_module(module), class_)
    try:
        train(Run.open(Path(path)), workload_type, quiet="--quiet" in flags)
    except StoppedError as stopped:  # the launcher says so once for all ranks
        return stopped.exit_status
    except FpmError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
