"""Small runs of the real command line, in this process or as a user would start them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FPM = (sys.executable, "-m", "fpm_cli")
# A proxy made smaller still: its depth and objective stay, a step takes a moment.
TINY = ("train.sequence_length=32", "train.global_batch=4", "train.micro_batch=4", "train.eval_samples=4")


def tiny(name: str, *assignments: str) -> list[str]:
    """The flags of a tiny run of a preset."""
    values = [*TINY, *(["train.decoder_length=16"] if "-2-" in name else []), *assignments]
    return ["pretrain", "--preset", name, "--proxy", *(flag for value in values for flag in ("--set", value))]


def start(
    arguments: Sequence[str], *, command: Sequence[str] = FPM, **variables: str
) -> subprocess.Popen[str]:
    """`fpm` in a process of its own, with these environment variables too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str], seconds: float = 120.0) -> tuple[int, str]:
    """Wait for a process of `start`: its exit status and what it said on stderr."""
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, said


def metrics(run: Path, kind: str) -> dict[int, float]:
    """The loss of each recorded step of one kind."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == kind}


def wait_for_step(run: Path, step: int, seconds: float = 120.0) -> None:
    """Wait until the run has trained up to `step`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and max(metrics(run, "train"), default=0) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} did not come within {seconds} s")
