"""The GPUs of this machine, asked in a process of its own: the launcher must not hold any of them.

Asking CUDA for free memory leaves a context of hundreds of megabytes on the first GPU for as long as the
process lives, and takes the whole GPU where it is in exclusive-process mode.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from fpm_cli.errors import MissingError
from fpm_cli.programs import run_program

NVIDIA_DEVICE = Path("/dev/nvidia0")
QUERY = "import json; from fpm_cli import cuda; print(json.dumps(cuda.query()))"


@dataclass(frozen=True)
class Gpus:
    """What torch sees of this machine's GPUs."""

    count: int
    free_bytes: int  # of the one with the least
    has_native_bf16: bool


def query_gpus() -> Gpus:
    """The GPUs that torch can use here.

    Raises:
        MissingError: torch cannot be asked.
    """
    if not NVIDIA_DEVICE.exists():  # saves an import of torch
        return Gpus(0, 0, False)
    answer = run_program([sys.executable, "-c", QUERY])
    try:
        return Gpus(**json.loads(answer.stdout))
    except (ValueError, TypeError) as error:
        reason = answer.stderr.strip().split("\n")[-1] or f"status {answer.returncode}"
        raise MissingError(f"torch cannot tell the GPUs of this machine: {reason}") from error
