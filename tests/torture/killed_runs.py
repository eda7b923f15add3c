"""Kill the real `fpm pretrain` often: `python -m tests.torture.killed_runs FOLDER CORPUS KILLS`.

A warm process imports everything once and forks, what torch and DeepSpeed else import late too; each child
runs the command line as a user would, goes on with the run, and is killed at a random moment of its life.
Prints a JSON document.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
import torch._dynamo
import torch._inductor.compile_fx
import torch.utils.tensorboard  # noqa: F401

import fpm_cli.engine.train  # noqa: F401
from fpm_cli.checkpoints.folders import checkpoint_step
from fpm_cli.cli.app import run as fpm
from tests.small_runs import metrics, tiny

STEPS = 24
# Dropout on: its random numbers must come back too.
SIZES = ("model.num_layers=2", "model.dropout=0.1", "train.save_every=2", "train.eval_every=9")


def forked(arguments: list[str]) -> int:
    """The process id of a child that runs one `fpm`."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            status = fpm(arguments)
        finally:
            os._exit(status)
    return child


def checkpoint_bytes(run: Path) -> dict[str, bytes]:
    folder = run / f"checkpoints/step-{STEPS}"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def train_through_kills(
    run: Path, begin: list[str], seconds_to_start: float, kills: int, chance: random.Random
) -> tuple[int, int]:
    """Go on with a run until it is finished: how often it was killed, and how often it was resumed."""
    killed = resumed = 0
    while True:
        there = (run / "manifest.json").exists()
        if not there:  # killed before it was made
            shutil.rmtree(run, ignore_errors=True)
        resumed += any((run / "checkpoints").glob("step-*"))
        child = forked(["-q", "pretrain", "--resume", "--out", str(run)] if there else [*begin, str(run)])
        if killed < kills:
            if killed % 5 == 4:  # some while they start, the rest some steps later
                wait(child, lambda: False, chance.uniform(0, seconds_to_start))
            else:
                wait_for_step(child, run, newest(run) + chance.randrange(1, 8))
                wait(child, lambda: False, chance.uniform(0, 0.05))
        else:
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        elif os.WEXITSTATUS(status) == 0:
            return killed, resumed
        else:
            sys.exit(f"a resumed run ended with status {os.WEXITSTATUS(status)}")


def wait_for_step(child: int, run: Path, step: int) -> None:
    """Until the child has taken a step; never is fine too, when it ends before."""
    row = f'"step": {step},'.encode()
    wait(
        child, lambda: (run / "metrics.jsonl").exists() and row in (run / "metrics.jsonl").read_bytes(), 120.0
    )


def newest(run: Path) -> int:
    """The step that the child will resume from."""
    return max((checkpoint_step(path) for path in (run / "checkpoints").glob("step-*")), default=0)


def wait(child: int, until: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not until() and not ended(child):
        time.sleep(0.002)


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main(folder: str, corpus: str, kills: str) -> None:
    begin = ["-q", *tiny("BERT-C", *SIZES, f"train.steps={STEPS}"), "--corpus", corpus, "--out"]
    through = Path(folder) / "through"
    began = time.monotonic()
    _, status = os.waitpid(forked([*begin, str(through)]), 0)
    if status:
        sys.exit("the uninterrupted run failed")
    seconds = (time.monotonic() - began) / 3
    reference, losses = checkpoint_bytes(through), metrics(through, "train")
    chance = random.Random(2)
    found = {"kills": 0, "runs": 0, "steps": STEPS, "resumed": 0, "identical": 0, "metrics": 0}
    while found["kills"] < int(kills) or not found["resumed"]:  # busy, a run may be killed before it saves
        run = Path(folder) / f"killed-{found['runs']}"
        killed, resumed = train_through_kills(
            run, begin, seconds, max(1, int(kills) - found["kills"]), chance
        )
        found["kills"] += killed
        found["resumed"] += resumed
        found["runs"] += 1
        found["identical"] += checkpoint_bytes(run) == reference
        found["metrics"] += metrics(run, "train") == losses
        print(json.dumps(found), file=sys.stderr, flush=True)
        shutil.rmtree(run)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
