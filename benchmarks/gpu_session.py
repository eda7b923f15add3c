"""A session of `benchmarks/gpu.py`: its steps run `fpm`, and what came of each is recorded and written."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.corpus.samples import build_sample_corpus
from fpm_cli.errors import FpmError
from fpm_cli.launch.gpus import Gpus

STEP_SECONDS = 300.0  # after which a command is killed
CONSTANT = ("train.schedule=constant", "train.warmup_steps=0", "train.eval_every=1000", "train.log_every=1")


class StepError(Exception):
    """A step did not do what it should; the message goes into the result."""


@dataclass
class Step:
    """What one step ran, what came of it, and its figures."""

    name: str
    passed: bool = False
    seconds: float = 0.0
    commands: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


Run = Callable[[Sequence[str]], str]


class Session:
    """The steps of one machine, and where their files lie."""

    def __init__(self, out: Path, gpus: Gpus, run_fpm: Run | None = None):
        """`run_fpm` runs `fpm` with the given arguments and returns its stdout; by default in a process."""
        self.out, self.gpus, self.steps = out, gpus, list[Step]()
        self.scratch = out / "scratch"
        self._run_fpm = run_fpm or run_in_process_of_its_own
        self._corpora: dict[str, Path] = {}

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU; else everything is tiny."""
        return self.gpus.count > 0

    def step(self, name: str, work: Callable[[Step], None]) -> None:
        """Run one step and record it, whatever comes of it."""
        step, began = Step(name), time.monotonic()
        self.steps.append(step)
        print(f"== {name}", file=sys.stderr, flush=True)
        try:
            work(step)
            step.passed = True
        except (StepError, FpmError, OSError, ValueError, KeyError) as error:
            step.error = f"{type(error).__name__}: {error}"
            print(f"   failed: {step.error}", file=sys.stderr, flush=True)
        step.seconds = time.monotonic() - began

    def fpm(self, step: Step, *arguments: str) -> str:
        """Run `fpm` for a step; its stdout.

        Raises:
            StepError: it failed.
        """
        step.commands.append(f"fpm {' '.join(arguments)}")
        return self._run_fpm(arguments)

    def fpm_json(self, step: Step, *arguments: str) -> dict[str, Any]:
        """As `fpm`, for a verb that prints one JSON document."""
        document: dict[str, Any] = json.loads(self.fpm(step, *arguments, "--json"))
        return document

    def config(self, preset: str, assignments: Sequence[str]) -> RunConfig:
        """As `pretrain` resolves it."""
        return resolve(preset, proxy=not self.on_gpu, environment={}, assignments=assignments).config

    def pretrain(
        self, step: Step, preset: str, assignments: Sequence[str], run: str, *, nproc: int = 1
    ) -> list[dict[str, Any]]:
        """Train on the sample text; the rows of the training steps."""
        values = (*assignments, *CONSTANT)
        flags = [flag for value in values for flag in ("--set", value)]
        proxy = [] if self.on_gpu else ["--proxy"]
        folder = self.scratch / run
        where = ["--corpus", str(self.corpus(preset)), "--nproc", str(nproc), "--out", str(folder)]
        self.fpm(step, "-q", "pretrain", "--preset", preset, *proxy, *flags, *where)
        return train_rows(folder)

    def corpus(self, preset: str) -> Path:
        """The packaged sample text under the preset's tokenizer, built once."""
        config = resolve(preset, proxy=True, environment={}).config
        if config.tokenizer not in self._corpora:
            path = self.scratch / f"corpus-{config.tokenizer}"
            build_sample_corpus(config, path)
            self._corpora[config.tokenizer] = path
        return self._corpora[config.tokenizer]


def run_in_process_of_its_own(arguments: Sequence[str]) -> str:
    """`fpm`, with what it says on stderr in the error."""
    command = [sys.executable, "-m", "fpm_cli", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise StepError(f"not done after {STEP_SECONDS:g} s: fpm {' '.join(arguments)}") from error
    if result.returncode:
        tail = "\n".join(result.stderr.strip().splitlines()[-8:])
        raise StepError(f"status {result.returncode}: fpm {' '.join(arguments)}\n{tail}")
    return result.stdout


def train_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the training steps in a run folder."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for line in lines if (row := json.loads(line))["kind"] == "train"]


def write_result(session: Session) -> None:
    """result.json with every figure, and result.md with the ones to look at first."""
    gpus = {"count": session.gpus.count, "free_bytes": session.gpus.free_bytes}
    document = {
        "schema": "fpm.gpu-session/1",
        "device": "gpu" if session.on_gpu else "cpu, tiny sizes: no statement about GPUs",
        "gpus": gpus,
        "passed": all(step.passed for step in session.steps),
        "steps": [vars(step) for step in session.steps],
    }
    text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False)
    (session.out / "result.json").write_text(text + "\n", encoding="utf-8")
    lines = [f"# First minutes on {document['device']}", "", "| step | result | seconds | figures |"]
    lines.append("|---|---|---|---|")
    for step in session.steps:
        result = "passed" if step.passed else f"failed: {step.error.splitlines()[0]}"
        lines.append(f"| {step.name} | {result} | {step.seconds:.0f} | {highlights(step)} |")
    (session.out / "result.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def highlights(step: Step) -> str:
    """The numbers of a step that are single values."""
    numbers = {
        k: v for k, v in step.figures.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    return ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in numbers.items())
