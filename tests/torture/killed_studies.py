"""Kill a depth study often: `python -m tests.torture.killed_studies FOLDER KILLS [SEED]`.

A study of two depths and two seeds is killed (SIGKILL, the whole process) at random moments of its life and
resumed, until it is finished; if that takes fewer than KILLS, another one follows. Each finished study is
compared with one that was never killed: its rows without measured times, and every byte of the last
checkpoint of each run. Prints a JSON document.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.small_runs import FPM

STEPS = 120
SIZES = ("train.sequence_length=32", "train.eval_samples=4", "train.eval_every=40", "train.save_every=20")
STUDY = ("--preset", "CPM-X-S", "--proxy", "--depths", "2,4", "--seeds", "2", "--steps", str(STEPS))
BEGIN = ("study", "depth", *STUDY, *(flag for size in SIZES for flag in ("--set", size)))
MEASURED = ("seconds", "task_seconds", "device_hours", "peak_memory_bytes")
LONGEST_LIFE = 15.0  # seconds; a command takes some four until its first step


def start(study: Path) -> subprocess.Popen[bytes]:
    """Begin the study, or resume it where it is there."""
    begin = [*BEGIN, "--out", str(study)]
    arguments = ["study", "resume", str(study)] if (study / "study.toml").is_file() else begin
    return subprocess.Popen([*FPM, "--quiet", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a study that is not killed."""
    _, message = process.communicate(timeout=600)
    if process.returncode:
        sys.exit(f"a study ended with status {process.returncode}: {message.decode()}")


def outcome(study: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The rows without measured times, and the bytes of each run's last checkpoint."""
    lines = (study / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]
    files = sorted(study.glob(f"runs/*/checkpoints/step-{STEPS}/*"))
    return rows, {str(path.relative_to(study)): path.read_bytes() for path in files}


def main(folder: str, kills: str, seed: str = "1") -> None:
    """See the module."""
    through = Path(folder) / "through"
    finish(start(through))
    reference = outcome(through)
    chance = random.Random(int(seed))
    counts = {"kills": 0, "studies": 0, "identical_rows": 0, "identical_checkpoints": 0}
    counts["runs_of_each"] = len(reference[0])
    while counts["kills"] < int(kills):
        study = Path(folder) / f"killed-{counts['studies']}"
        while (process := start(study)) and counts["kills"] < int(kills):
            try:
                process.wait(chance.uniform(0, LONGEST_LIFE))
                break  # finished before it was killed
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                counts["kills"] += 1
        finish(process)
        rows, checkpoints = outcome(study)
        counts["studies"] += 1
        counts["identical_rows"] += rows == reference[0]
        counts["identical_checkpoints"] += checkpoints == reference[1]
        print(json.dumps(counts), file=sys.stderr, flush=True)
        shutil.rmtree(study)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
