"""Task definitions: small TOML files with labels, file layouts, metric and submission format."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from fpm_cli.config.presets import read_toml
from fpm_cli.config.schema import Language
from fpm_cli.errors import MissingError, UsageError, did_you_mean
from fpm_cli.frozen import Frozen

DEFINITIONS = Path(__file__).parent / "definitions"


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[
    tuple[str, ...], BeforeValidator(_as_list)
]  # alternative names of a column; the first that the file has is used


class Layout(Frozen):
    """The columns of one kind of file. A file is read with the first layout that matches it.

    A `jsonl` layout also reads the rows of a data set of the `datasets` library.
    """

    format: Literal["csv", "tsv", "jsonl"]
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="default: comma or tab")
    quoting: bool = Field(True, description="false: double quotes have no meaning (GLUE)")
    columns: tuple[str, ...] | None = Field(None, description="the columns of a file without a header line")
    text_a: Names
    text_b: Names = ()
    label: Names = ("label",)
    id: Names = ()

    @property
    def separator(self) -> str:
        """The character between two fields."""
        return self.delimiter or ("," if self.format == "csv" else "\t")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.text_a or not self.label:
            raise ValueError("text_a and label each need the name of a column")
        if self.columns is not None:
            if self.format == "jsonl":
                raise ValueError("columns are for csv and tsv; a JSON line names its own")
            if len(set(self.columns)) != len(self.columns):
                raise ValueError("columns has a name twice")
            for names in (self.text_a, self.text_b, self.label, self.id):
                if names and not set(names) & set(self.columns):
                    raise ValueError(f"column {names[0]!r} is not among columns")
        return self


class RecipeOverrides(Frozen):
    """Settings of `fpm finetune` that the task overrides; None: the default."""

    epochs: PositiveFloat | None = None
    lr: PositiveFloat | None = None
    batch_size: PositiveInt | None = None
    max_length: PositiveInt | None = Field(None, description="tokens per example, special ones included")
    weight_decay: float | None = Field(None, ge=0)
    warmup_ratio: float | None = Field(None, ge=0, lt=1, description="fraction of the steps")
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    dropout: float | None = Field(None, ge=0, lt=1)


class TaskDefinition(Frozen):
    """One classification task over texts or pairs of texts; class `i` is `labels[i]`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    language: Language
    labels: tuple[str, ...] = Field(min_length=2, description="as in a submission file, in class order")
    label_names: dict[str, str] = Field({}, description="other spellings of labels in files")
    positive: str | None = Field(None, description="the label of f1_positive; default: the second of two")
    select_by: Literal["accuracy", "f1_positive", "f1_macro"] = "accuracy"
    submission: Literal["glue", "clue"] | None = None
    append: tuple[str, ...] = Field((), description="columns appended to the text, such as TNEWS's keywords")
    layouts: tuple[Layout, ...] = Field(min_length=1)
    recipe: RecipeOverrides = RecipeOverrides()

    @property
    def is_pair(self) -> bool:
        """Whether an example has two texts."""
        return bool(self.layouts[0].text_b)

    @property
    def positive_class(self) -> int | None:
        """The class of `f1_positive`; None where there are more than two."""
        if len(self.labels) != 2:
            return None
        return 1 if self.positive is None else self.labels.index(self.positive)

    def class_of(self, written: str) -> int | None:
        """The class of a label as written in a file; None if the task has no such label."""
        label = self.label_names.get(written, written)
        return self.labels.index(label) if label in self.labels else None

    def to_toml(self) -> str:
        """The definition as a file that `load_task` reads."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True, exclude_defaults=True))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels has a label twice")
        for written, label in self.label_names.items():
            if label not in self.labels:
                raise ValueError(f"label_names: {written!r} stands for {label!r}, which is not among labels")
            if written in self.labels:
                raise ValueError(f"label_names: {written!r} is itself a label")
        if self.positive is not None and (len(self.labels) != 2 or self.positive not in self.labels):
            raise ValueError("positive must be one of two labels")
        if self.select_by == "f1_positive" and len(self.labels) != 2:
            raise ValueError("select_by: f1_positive takes two labels; f1_macro any number")
        if len({bool(layout.text_b) for layout in self.layouts}) > 1:
            raise ValueError("layouts: either all of them have text_b or none")
        return self


def task_names() -> tuple[str, ...]:
    """The tasks that are part of fpm."""
    return tuple(sorted(path.stem for path in DEFINITIONS.glob("*.toml")))


def load_task(name_or_path: str | Path) -> TaskDefinition:
    """Load the task of that name, or the task in that TOML file.

    Raises:
        UsageError: no task has that name, or the file is not a task definition; says which key and why.
        MissingError: the file is not there.
    """
    name = str(name_or_path)
    if name in task_names():
        return read_task(DEFINITIONS / f"{name}.toml")
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise MissingError(f"{path}: no such task file")
        return read_task(path)
    known = ", ".join(task_names())
    hint = did_you_mean(name, task_names()) or f"; fpm has {known}, and takes a TOML file of your own"
    raise UsageError(f"no task is called {name!r}{hint}")


def read_task(path: Path) -> TaskDefinition:
    """Read one task definition.

    Raises:
        UsageError: it is not a task definition; names each wrong key and a likely correction.
        FileNotFoundError: there is no such file.
    """
    try:
        return TaskDefinition.model_validate(read_toml(path))
    except ValidationError as error:
        problems = (f"{path}: {_explain(problem)}" for problem in error.errors(include_url=False))
        raise UsageError("\n".join(problems)) from error


def _explain(problem: Any) -> str:
    place = problem["loc"]
    key = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        owner: dict[str, type[Frozen]] = {"layouts": Layout, "recipe": RecipeOverrides}
        model = owner.get(str(place[0]), TaskDefinition) if len(place) > 1 else TaskDefinition
        return f"{key}: no such key{did_you_mean(str(place[-1]), model.model_fields)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
