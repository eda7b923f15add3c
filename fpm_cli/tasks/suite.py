"""A suite of tasks, such as GLUE: a TOML file with the tasks, their files, and how they are averaged."""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from fpm_cli.config.presets import read_toml
from fpm_cli.errors import MissingError
from fpm_cli.frozen import Frozen
from fpm_cli.tasks.definition import Names, TaskDefinition, load_task

SUITES = Path(__file__).parent / "suites"


class SuiteTask(Frozen):
    """A task of a suite and its files, each under the first of its names that exists."""

    task: str
    folder: Names
    train: Names = ()
    dev: Names = ()
    test: Names = ()
    group: str | None = Field(None, description="tasks of one group count as one task")
    counted: bool = Field(True, description="whether the average takes it")

    def definition(self) -> TaskDefinition:
        """The task itself."""
        return load_task(self.task)

    def find(self, data: Path, names: tuple[str, ...]) -> Path | None:
        """The first of these files in one of the task's folders under `data`."""
        paths = (data / folder / name for folder in self.folder for name in names)
        return next((path for path in paths if path.is_file()), None)


class Suite(Frozen):
    """Tasks in the order of the leaderboard."""

    name: str
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [each.task for each in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("tasks has a task twice")
        return self

    def train_files(self, data: Path) -> dict[str, Path]:
        """The training file of each task that has one, by the task's name.

        Raises:
            MissingError: some are not there; says where the first was looked for.
        """
        trained = [each for each in self.tasks if each.train]
        paths = {each.task: each.find(data, each.train) for each in trained}
        if missing := [each for each in trained if paths[each.task] is None]:
            names = ", ".join(each.task for each in missing)
            first = data / missing[0].folder[0] / missing[0].train[0]
            raise MissingError(
                f"{data} has no training file of {names} (as {first}); `fpm finetune TASK --train` trains one"
            )
        return {task: path for task, path in paths.items() if path is not None}


def suite_names() -> tuple[str, ...]:
    """The suites that are part of fpm."""
    return tuple(sorted(path.stem for path in SUITES.glob("*.toml")))


def load_suite(name: str) -> Suite:
    """The suite of that name, one of `suite_names`."""
    path = SUITES / f"{name}.toml"
    try:
        return Suite.model_validate(read_toml(path))
    except ValidationError as error:
        raise AssertionError(f"{path}: {error}") from error
