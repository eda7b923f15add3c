"""BERT-C exactly as in Table 2, on one core: `python -m benchmarks.bert_c --corpus CORPUS --out FOLDER`.

Trains 30 steps of 2 sequences of 512 tokens from scratch, stopped by SIGTERM at `--stops` and resumed. A copy
of the run as it was after the checkpoint of step 20 is resumed on its own; losses and final weights of both
are compared bit for bit. Then the run is exported to transformers, and the peak of resident memory of each
process is printed beside the plan. CORPUS is built with the published vocabulary (`fpm tokenize import`).
The same command continues a benchmark that was interrupted.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.resident_memory import peak_bytes
from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.runs.run import Run

STEPS, BRANCH = 30, 20
GIB = 2**30
SETTINGS = (
    *("train.global_batch=2", "train.micro_batch=2", f"train.steps={STEPS}", "train.warmup_steps=3"),
    *("train.save_every=10", f"train.keep_steps=[{BRANCH}]", "train.log_every=1"),
    *("engine.keep_last=1", "engine.keep_best=false"),
)
FLAGS = ["--preset", "BERT-C", *(word for value in SETTINGS for word in ("--set", value))]


def losses(run: Path) -> dict[int, float]:
    """The loss of each step as metrics.jsonl has it."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def train(run: Path, corpus: Path, prefix: Sequence[str], stop: int, branch: Path | None = None) -> None:
    """Train up to `stop` in a process of its own; copy the run to `branch` once step 20 is saved."""
    begin = [*FLAGS, "--corpus", str(corpus)]
    flags = ["--resume"] if (run / "manifest.json").exists() else begin
    command = [*prefix, sys.executable, "-m", "fpm_cli", "-q", "pretrain", *flags, "--out", str(run)]
    began, first_step, peak = time.monotonic(), len(losses(run)), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        time.sleep(1)
        peak = peak_bytes(process.pid) or peak
        if branch and not branch.exists() and (run / f"checkpoints/step-{BRANCH}/manifest.json").exists():
            copy_run(run, branch)
        if stop < STEPS and len(losses(run)) >= stop:
            process.send_signal(signal.SIGTERM)
    record = {"first_step": first_step + 1, "last_step": len(losses(run)), "peak_bytes": peak}
    record |= {"seconds": round(time.monotonic() - began), "exit_status": process.returncode}
    with (run.parent / "processes.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"run": run.name, **record}) + "\n")
    print(record, flush=True)
    if process.returncode not in (0, 130, 143, 128 + signal.SIGTERM) and len(losses(run)) < stop:
        raise SystemExit(f"fpm pretrain exited with {process.returncode}")


def copy_run(run: Path, branch: Path) -> None:
    """As a crash now would leave the run; the tensors, which never change, as links."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)

    shutil.copytree(run, branch, copy_function=copy, ignore=shutil.ignore_patterns(".*", "*.lock"))


def digest(run: Path) -> tuple[str, int]:
    """SHA-256 over the final weights by name, and their step."""
    weights, step = load_weights(Run.open(run))
    whole = hashlib.sha256()
    for name in sorted(weights):
        whole.update(name.encode())
        whole.update(weights[name].numpy().data)
    return whole.hexdigest(), step


def planned() -> dict[str, Any]:
    """The plan of `fpm pretrain --dry-run`."""
    command = [sys.executable, "-m", "fpm_cli", "pretrain", *FLAGS, "--dry-run", "--json"]
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return document


def report(folder: Path, prefix: Sequence[str]) -> None:
    """Compare, export, and print every figure."""
    run, branch = folder / "run", folder / "branch"
    whole, resumed = losses(run), losses(branch)
    for step, loss in whole.items():
        print(f"step {step}: loss {loss:.6f}{'' if step <= BRANCH else f', resumed {resumed[step]:.6f}'}")
    print(f"losses of steps {BRANCH + 1} to {STEPS} equal: ", end="")
    print(all(whole[step] == resumed[step] for step in range(BRANCH + 1, STEPS + 1)))
    digests = [digest(path) for path in (run, branch)]
    print(f"weights of step {STEPS}: {digests}, equal: {digests[0] == digests[1]}")
    command = [*prefix, sys.executable, "-m", "fpm_cli", "export", str(run), "--out"]
    exported = subprocess.run([*command, str(folder / "exported"), "--json"], check=True, capture_output=True)
    print(exported.stdout.decode().strip())
    memory = planned()["memory_per_device_bytes"]
    expected = memory["total"] + memory["save_copy"]
    for line in (folder / "processes.jsonl").read_text(encoding="utf-8").splitlines():
        peak = json.loads(line)["peak_bytes"]
        print(f"{line}: {peak / GIB:.2f} GiB, planned {expected / GIB:.2f}, {expected / peak - 1:+.1%}")


def main() -> None:
    """Parse, train, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stops", default="8,16,24", help="steps after which the run is stopped and resumed")
    parser.add_argument("--branch-stops", default="26", help="the same for the copy that resumes at step 20")
    parser.add_argument("--prefix", default="", help="before each command, such as `taskset -c 0`")
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    run, branch, prefix = given.out / "run", given.out / "branch", shlex.split(given.prefix)
    for path, stops, copy in ((run, given.stops, branch), (branch, given.branch_stops, None)):
        for stop in (*map(int, stops.split(",")), STEPS):
            if len(losses(path)) < stop:
                train(path, given.corpus.resolve(), prefix, stop, copy)
    report(given.out, prefix)


if __name__ == "__main__":
    main()
