"""The task of a fine-tuned run: its definition in `task.toml`, its files in the manifest."""

from dataclasses import dataclass
from pathlib import Path

from fpm_cli.errors import MissingError
from fpm_cli.files import replace_text
from fpm_cli.runs.find import newest_run
from fpm_cli.runs.manifest import TaskRecord
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition, read_task

TASK_FILE = "task.toml"


@dataclass(frozen=True)
class TaskRun:
    """A fine-tuned run, the task it was trained for, and the files it was given."""

    run: Run
    task: TaskDefinition
    train_files: tuple[Path, ...]
    dev_file: Path | None  # what `fpm evaluate` scores by default; checkpoints are not selected on it


def record_task(run: Run, task: TaskDefinition, record: TaskRecord) -> None:
    """Write `task.toml`, and the task's record into the manifest, for `open_task_run`."""
    replace_text(run.path / TASK_FILE, task.to_toml())
    run.update_manifest(task=record)


def open_task_run(path: Path | None, task_name: str) -> TaskRun:
    """The fine-tuned run at `path`, or without one the newest finished run of that task under `runs/`.

    Raises:
        MissingError: there is none, or it was not fine-tuned.
        DamagedError: its manifest is damaged.
        UsageError: its `task.toml` is no longer a task definition.
    """
    run = Run.open(path) if path else newest_run(finished=True, task=task_name)
    record = run.manifest().task
    if record is None or not (run.path / TASK_FILE).is_file():
        raise MissingError(
            f"{run.path}: not fine-tuned for a task; `fpm finetune {task_name} --from` makes one"
        )
    return TaskRun(
        run,
        read_task(run.path / TASK_FILE),
        tuple(map(Path, record.train_files)),
        Path(record.dev_file) if record.dev_file else None,
    )
