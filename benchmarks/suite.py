"""Every benchmark beside its peer, in one command: `make bench`, on two quiet cores.

    python -m benchmarks.suite                       # all parts; a part that is already measured is kept
    python -m benchmarks.suite --only step kernels   # these parts only, measured again
    python -m benchmarks.suite --compare A.json B.json

Each part is a process of its own that compares outputs first and then times both sides in turns. The results
are `benchmarks/results/<machine>.json` and a page beside it, written after each part; a suite that was ended
continues with the next part. Parts of another commit, or of changed sources, are measured again. `--compare`
lists what became slower from A to B beyond the noise of both; its exit status is then 1. Both must come from
quiet cores: beside other work a ratio may differ by a tenth from one run to the next. Some parts read
public texts and vocabularies from `--data`; without that folder they are left out.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.measurements import Measurement, from_rows, quantity, read, times

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SOURCES = ("benchmarks", "fpm_cli", "kernels", "presets", "pyproject.toml", "constraints.txt")
PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "sentencepiece", "tiktoken")
CHANGED = "-changed"  # after a commit from which the sources differ
SLOWER = 0.10  # a ratio that fell by more, outside both quartile ranges, is a regression


@dataclass(frozen=True)
class Part:
    """A benchmark of this folder, the arguments that keep it short, and what it needs."""

    module: str
    seconds: int  # that it takes, roughly, on two quiet cores
    arguments: tuple[str, ...] = ()
    threads: int = 1
    needs_data: bool = False  # whether it takes `--data`


PARTS = {
    "step": Part("step", 200, ("--rounds", "5", "--without", "reference")),
    "step-2": Part("step", 130, ("--rounds", "5", "--without", "reference", "--threads", "2"), threads=2),
    "proxies": Part("step", 60, ("--rounds", "3", "--without", "reference", "--proxies")),
    "kernels": Part("kernels", 60, ("--rounds", "7", "--without-proxies"), threads=2),
    "engine": Part("engine", 60),
    "data": Part("data", 35),
    "ranks": Part("ranks", 190, ("--steps", "10", "--rounds", "2"), threads=2),
    "linear-depth": Part("linear_depth", 90),
    "start-up": Part("startup", 30),
    "tokenize": Part(
        "tokenize", 80, ("--megabytes", "8", "--reference-megabytes", "1", "--rounds", "4"), needs_data=True
    ),
    "corpus": Part("corpus", 60, ("near", "--documents", "2000", "--rounds", "3")),
    "loader": Part("corpus", 30, ("loader", "--megabytes", "20")),
    "whole-words": Part("whole_words", 60, ("--megabytes", "3", "--rounds", "3")),
    "finetune": Part("finetune", 150, ("--steps", "3", "--rounds", "2"), needs_data=True),
    "generate": Part("generate", 45, ("--length", "256")),
    "export": Part("export", 20),
    "checkpoint": Part("checkpoint", 80, ("--repeats", "5"), threads=2),
}


def main() -> int:
    """Measure, write and print; or compare two results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="JSON to write; by default under benchmarks/results/")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="%(default)s")
    parser.add_argument("--compare", nargs="*", type=Path, metavar="RESULT", help="two JSON files: old, new")
    options = parser.parse_args()
    if options.compare is not None:
        if len(options.compare) != 2:
            parser.error("--compare takes two results: make bench-compare A=old.json B=new.json")
        return compare(*options.compare)
    if unknown := [name for name in options.only or () if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    out = options.out or RESULTS / f"{machine_name()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    results = Results.open(out)
    began, failed = time.perf_counter(), list[str]()
    for name in options.only or PARTS:
        if PARTS[name].needs_data and not options.data.is_dir():
            print(f"{name}: left out, since there is no folder {options.data} (--data)", file=sys.stderr)
        elif not run_part(name, results, bool(options.only), options.data):
            failed.append(name)
        out.with_suffix(".md").write_text(results.page(), encoding="utf-8")
    print(results.page())
    print(f"{time.perf_counter() - began:.0f} s; results in {out}", file=sys.stderr)
    if failed:
        print(f"not measured: {', '.join(failed)}; their messages are above", file=sys.stderr)
    return 1 if failed else 0


class Results:
    """The measurements of a machine by part, kept in one file as they are made."""

    def __init__(self, path: Path, parts: dict[str, dict[str, Any]]) -> None:
        self._path, self._parts = path, parts

    @classmethod
    def open(cls, path: Path) -> "Results":
        """Those in the file, if there is one."""
        parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
        return cls(path, parts)

    def has(self, name: str, commit: str) -> bool:
        """Whether a part was measured at this commit, and not with changed sources."""
        is_known = not commit.endswith(CHANGED)
        return is_known and name in self._parts and self._parts[name]["commit"] == commit

    def add(self, name: str, commit: str, seconds: float, rows: list[Measurement]) -> None:
        """Keep a part's measurements, on disk too."""
        about = {"commit": commit, "seconds": round(seconds, 1)}
        self._parts[name] = {**about, "measurements": [asdict(row) for row in rows]}
        document = {"machine": machine(), "parts": self._parts}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        partial = self._path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._path)

    def page(self) -> str:
        """A Markdown page with one table for each part."""
        rows = [row for name in PARTS if name in self._parts for row in rows_of(self._parts[name])]
        lines = ["# fpm beside its peers", "", *(f"- {key}: {value}" for key, value in machine().items()), ""]
        lines += [
            "A ratio is the peer's value over fpm's, the median of interleaved rounds with its quartiles:",
            "above 1, fpm is faster or takes less memory. Seconds are CPU seconds with one thread, else wall",
            "seconds.",
            "",
        ]
        for part, of_part in groupby(rows, key=lambda row: row.part):
            lines += [f"## {part}", "", "| case | threads | fpm | peer | ratio | asked | limit |"]
            lines += ["|---|---|---|---|---|---|---|", *map(_table_row, of_part), ""]
        return "\n".join(lines)


def run_part(name: str, results: Results, again: bool, data: Path) -> bool:
    """Measure one part in a process of its own and keep what it found; False where it failed."""
    commit = revision()
    if not again and results.has(name, commit):
        print(f"{name}: already measured at {commit}", file=sys.stderr)
        return True
    part = PARTS[name]
    threads = str(part.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measurements.json"
        command = [sys.executable, "-m", f"benchmarks.{part.module}", *part.arguments, "--out", str(out)]
        command += ["--data", str(data.resolve())] if part.needs_data else []
        about = f"some {part.seconds} s with {part.threads} thread(s)"
        print(f"== {name}, {about}: {' '.join(command[1:])}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False)
        if done.returncode or not out.exists():
            return False
        results.add(name, commit, time.perf_counter() - began, read(out))
    return True


def compare(before: Path, after: Path) -> int:
    """Print the measurements that both files have and whose ratio changed; 1 where one fell."""
    try:
        old, new = load(before), load(after)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"not two results of the suite: {before}, {after} ({error})", file=sys.stderr)
        return 2
    fallen = [key for key in old if key in new and is_slower(old[key], new[key])]
    risen = [key for key in old if key in new and is_slower(new[key], old[key])]
    for label, keys in (("slower", fallen), ("faster", risen)):
        for key in keys:
            part, case, peer, threads = key
            print(
                f"{label}: {part}: {case} against {peer}, {threads} thread(s): {times(old[key].ratio)} -> "
                f"{times(new[key].ratio)} ({new[key].ratio / old[key].ratio - 1:+.0%})"
            )
    shared = len(old.keys() & new.keys())
    print(f"{shared} measurements in both, {len(fallen)} slower, {len(risen)} faster")
    return 1 if fallen else 0


def is_slower(before: Measurement, after: Measurement) -> bool:
    """Whether the ratio fell by more than the threshold, and the quartile ranges of both lie apart."""
    return after.ratio < before.ratio * (1 - SLOWER) and after.quartiles[1] < before.quartiles[0]


def load(path: Path) -> dict[tuple[str, str, str, int], Measurement]:
    """The measurements of a result file by their key."""
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    return {row.key: row for part in parts.values() for row in rows_of(part)}


def rows_of(part: dict[str, Any]) -> list[Measurement]:
    """The measurements of one part of a result file."""
    return from_rows(part["measurements"])


def _table_row(row: Measurement) -> str:
    low, high = row.quartiles
    asked = "" if row.asked is None else f"{row.asked:g}x"
    peer = f"{row.peer}, {quantity(row.peer_value, row.unit)}"
    ratio = f"{times(row.ratio)} ({times(low)} to {times(high)})"
    ours = quantity(row.value, row.unit)
    return f"| {row.case} | {row.threads} | {ours} | {peer} | {ratio} | {asked} | {row.limit} |"


def revision() -> str:
    """The commit that is measured, marked where the sources differ from it; results do not count."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", *SOURCES, f":!{RESULTS.relative_to(ROOT)}")
    return f"{commit or 'unknown'}{CHANGED if changed or not commit else ''}"


def _git(*arguments: str) -> str:
    """The output of git in this repository; empty where it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> dict[str, str]:
    """Processor, cores and versions."""
    found = {"processor": processor(), "cores": str(os.cpu_count()), "system": platform.system()}
    found["Python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return name.group(1) if name else platform.machine()


def machine_name() -> str:
    """The machine as a file name: its processor and number of cores, never a host's name."""
    words = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    return f"{words}-{os.cpu_count()}-cores"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues with this part")
