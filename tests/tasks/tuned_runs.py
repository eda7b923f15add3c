"""Fine-tuned runs as `fpm evaluate` sees them, with given predictions in a network's place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpm_cli.config.resolve import resolve
from fpm_cli.runs.manifest import RunState, TaskRecord, WeightsOrigin
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import Example
from fpm_cli.tasks.task_run import TaskRun, open_task_run, record_task

QUICK = ("train.global_batch=8", "train.micro_batch=4", "train.lr=2e-3", "train.log_every=1")


def finetune_flags(place: Path, name: str, out: Path, *assignments: str) -> list[str]:
    values = [*QUICK, *assignments]
    return [
        *("finetune", str(place / "praise.toml"), "--from", str(place / name), "--out", str(out)),
        *("--train", str(place / "train.csv"), "--validation", str(place / "dev.csv")),
        *(flag for value in values for flag in ("--set", value)),
    ]


def tuned_run(path: Path, task: TaskDefinition, train: Sequence[Path], dev: Path | None) -> TaskRun:
    """A run folder that says it was fine-tuned for the task, without weights."""
    run = Run.create(path, resolve("BERT-C", proxy=True, environment={}).config, None)
    record = TaskRecord(
        name=task.name,
        labels=task.labels,
        origin=WeightsOrigin(
            run="none", name="none", step=0, weights_fingerprint=None, tokenizer_fingerprint=""
        ),
        train_files=tuple(map(str, train)),
        validation="0.05",
        dev_file=str(dev.resolve()) if dev else None,  # as fine-tuning records it
        num_examples={},
        example_fingerprints={},
    )
    record_task(run, task, record)
    run.update_manifest(state=RunState.finished)
    return open_task_run(path, task.name)


class Oracle:
    """Predicts the label (0 where there is none), and the next class for every `wrong`-th example."""

    def __init__(self, wrong: int) -> None:
        self.wrong = wrong

    def __call__(self, run: Run, task: TaskDefinition, examples: Sequence[Example]) -> NDArray[np.float32]:
        k = len(task.labels)
        classes = [
            ((example.label or 0) + (place % self.wrong == 0)) % k for place, example in enumerate(examples)
        ]
        return np.eye(k, dtype=np.float32)[classes] * 0.75 + np.float32(0.25 / k)
