"""Kill a process that saves, again and again: `python -m tests.torture.saving FOLDER WRITER KILLS`.

Each child saves one checkpoint after another and says over a pipe which are done; it is killed at a random
moment. Then the folder must hold a readable checkpoint, none older than the last one it was said of.
On a busy machine a child may be killed before it did anything, so it goes on until KILLS of them have left
a save half done and a quarter as many saves were said to be done. Prints a JSON document with the number
of times that a checkpoint was unreadable or older than promised.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fpm_cli.checkpoints.checkpoint import load_weights, prune, remove_incomplete, verify_checkpoint
from fpm_cli.checkpoints.folders import find_latest_checkpoint
from fpm_cli.runs.run import Run
from tests.small_checkpoints import write_checkpoint

ELEMENTS = 40_000
MOST_TRIES = 50  # children for each wanted kill in the midst of a save; some two are the rule


class Durable:
    """What fpm does."""

    def __init__(self, folder: Path):
        self.run = Run(folder)
        self.run.checkpoints.mkdir(parents=True, exist_ok=True)

    def recover(self) -> None:
        remove_incomplete(self.run)

    def save(self, step: int) -> None:
        weights = {name: torch.full((ELEMENTS,), float(step)) for name in ("a", "b")}
        write_checkpoint(self.run, step, weights, ranks=2)
        prune(self.run, keep_last=2, keep_best=True)

    def half_done(self) -> bool:
        """Whether the killed child was in the midst of writing."""
        return any(self.run.checkpoints.glob(".step-*.tmp"))

    def load(self) -> int:
        """The step of what is there; 0 before the first."""
        folder = find_latest_checkpoint(self.run)
        if folder is None:
            return 0
        verify_checkpoint(folder)
        weights, step = load_weights(self.run)
        assert all(bool((value == step).all()) for value in weights.values())
        return step


class Naive:
    """What is often done: the file written in place, and its name after it."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def recover(self) -> None:
        pass

    def save(self, step: int) -> None:
        weights = {name: torch.full((ELEMENTS,), float(step)) for name in ("a", "b")}
        torch.save({"step": step, **weights}, self.folder / "state.pt")
        with (self.folder / "latest").open("w") as file:
            file.write("state.pt")

    def half_done(self) -> bool:
        return True  # it does nothing else

    def load(self) -> int:
        if not (self.folder / "latest").exists():
            return 0
        name = (self.folder / "latest").read_text()
        step = torch.load(self.folder / name, weights_only=True)["step"]
        assert isinstance(step, int)
        return step


def live(writer: Durable | Naive, step: int, said: int) -> None:
    """Save until killed; the first word is that it has begun."""
    writer.recover()
    os.write(said, step.to_bytes(8, "little"))
    while True:
        step += 1
        writer.save(step)
        os.write(said, step.to_bytes(8, "little"))


def kill_often(writer: Durable | Naive, kills: int, seconds_of_save: float) -> dict[str, int]:
    """How often it was unreadable or had lost a step that was said to be saved."""
    chance = random.Random(1)
    step = unreadable = lost = saved = half_done = tried = 0
    while half_done < kills or saved < kills / 4:
        tried += 1
        assert tried <= MOST_TRIES * kills, (
            f"{half_done} kills in the midst of {saved} saves in {tried} tries"
        )
        heard, said = os.pipe()
        if (child := os.fork()) == 0:
            live(writer, step, said)
        os.close(said)
        with os.fdopen(heard, "rb") as pipe:
            began = pipe.read(8)
            time.sleep(chance.uniform(0, 2 * seconds_of_save))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged = pipe.read()
        promised = int.from_bytes((began + acknowledged)[-8:], "little")
        saved += len(acknowledged) // 8
        half_done += writer.half_done()
        seconds_of_save *= 0.98 if acknowledged else 1.02  # so that it is killed in the midst, however busy
        try:
            found = writer.load()
        except Exception:
            unreadable, step = unreadable + 1, promised
            continue
        lost += found < promised
        step = max(found, promised)
    return {"kills": tried, "half_done": half_done, "saves": saved, "unreadable": unreadable, "lost": lost}


def main(folder: str, name: str, kills: str) -> None:
    torch.set_num_threads(1)
    make: Callable[[Path], Durable | Naive] = {"durable": Durable, "naive": Naive}[name]
    trial = make(Path(folder) / "trial")
    began = time.perf_counter()
    for step in range(1, 6):
        trial.save(step)
    seconds = (time.perf_counter() - began) / 5
    print(json.dumps(kill_often(make(Path(folder) / "killed"), int(kills), seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
