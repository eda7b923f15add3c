"""Task definitions: small TOML files with labels, file layouts, metric and submission format."""

from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BeforeValidator, Field, PositiveFloat, ValidationError, field_validator, model_validator

from fpm_cli.config.presets import read_toml
from fpm_cli.config.schema import Language
from fpm_cli.config.sections import ConfigSection, Count
from fpm_cli.errors import MissingError, UsageError, did_you_mean
from fpm_cli.frozen import Frozen

DEFINITIONS = Path(__file__).parent / "definitions"


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[
    tuple[str, ...], BeforeValidator(_as_list)
]  # alternative names of a column; the first that the file has is used


MetricName = Literal[
    "accuracy",
    "f1_positive",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "matthews",
    "pearson",
    "spearman",
]


class Mark(Frozen):
    """A span of the text, given by columns, that is enclosed by two marks: `_它_`."""

    span: str = Field(description="the column with the span's characters")
    index: str = Field(description="the column with the position of its first character in text_a")
    left: str
    right: str


class Layout(Frozen):
    """The columns of one kind of file. A file is read with the first layout that matches it.

    A `jsonl` layout also reads the rows of a data set of the `datasets` library. Its columns may be
    `outer.inner` for a key inside an object, and with `join` a column may hold a list of texts.
    """

    format: Literal["csv", "tsv", "jsonl"]
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="default: comma or tab")
    quoting: bool = Field(True, description="false: double quotes have no meaning (GLUE)")
    columns: tuple[str, ...] | None = Field(None, description="the columns of a file without a header line")
    text_a: Names
    text_b: Names = ()
    more_texts: tuple[str, ...] = Field((), description="columns of further texts after text_b")
    join: str | None = Field(None, description="what to put between the texts of a list; default: no lists")
    marks: tuple[Mark, ...] = Field((), description="spans of text_a to mark, in any order")
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
        if self.more_texts and not self.text_b:
            raise ValueError("more_texts are read after text_b, which is missing")
        if self.columns is not None:
            if self.format == "jsonl":
                raise ValueError("columns are for csv and tsv; a JSON line names its own")
            if len(set(self.columns)) != len(self.columns):
                raise ValueError("columns has a name twice")
            for names in (self.text_a, self.text_b, self.label, self.id):
                if names and not set(names) & set(self.columns):
                    raise ValueError(f"column {names[0]!r} is not among columns")
        return self


class RecipeOverrides(ConfigSection):
    """Settings of `fpm finetune` that the task overrides; None: the default."""

    epochs: PositiveFloat | None = None
    lr: PositiveFloat | None = None
    batch_size: Count | None = None
    max_length: Count | None = Field(None, description="tokens per example, special ones included")
    weight_decay: float | None = Field(None, ge=0)
    warmup_ratio: float | None = Field(None, ge=0, lt=1, description="fraction of the steps")
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    dropout: float | None = Field(None, ge=0, lt=1)


class TaskDefinition(Frozen):
    """A task over one or more texts: classification, where class `i` is `labels[i]`, or regression.

    A regression task has a `value_range` instead of labels, and predicts a number in it.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    language: Language
    labels: tuple[str, ...] = Field((), description="as in a submission file, in class order")
    value_range: tuple[float, float] | None = Field(None, description="of a regression task's values")
    label_names: dict[str, str] = Field({}, description="other spellings of labels in files")
    positive: str | None = Field(None, description="the label of f1_positive; default: the second of two")
    unlabelled: tuple[str, ...] = Field((), description="what files write where there is no gold label")
    metrics: tuple[MetricName, ...] = Field(("accuracy",), min_length=1, description="of its leaderboard")
    select_by: MetricName | None = Field(
        None, description="of the best checkpoint; default: the first metric"
    )
    submission: Literal["glue", "clue"] | None = None
    submission_file: str | None = Field(None, description="its name; default: QQP.tsv, tnews_predict.json")
    predicted_by: str | None = Field(None, description="the task whose fine-tuned runs also predict this one")
    append: tuple[str, ...] = Field((), description="columns appended to the text, such as TNEWS's keywords")
    layouts: tuple[Layout, ...] = Field(min_length=1)
    recipe: RecipeOverrides = RecipeOverrides()

    @property
    def is_regression(self) -> bool:
        """Whether a number is predicted instead of a class."""
        return self.value_range is not None

    @property
    def num_outputs(self) -> int:
        """The width of the network's head."""
        return 1 if self.is_regression else len(self.labels)

    @property
    def selection_metric(self) -> MetricName:
        """The metric by which the best checkpoint is chosen."""
        return self.select_by or self.metrics[0]

    @property
    def is_pair(self) -> bool:
        """Whether an example has two texts, and no more."""
        return bool(self.layouts[0].text_b) and not self.layouts[0].more_texts

    @property
    def num_texts(self) -> int:
        """How many texts an example has."""
        layout = self.layouts[0]
        return 1 + bool(layout.text_b) + len(layout.more_texts)

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

    @field_validator("value_range", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(bound, bool) for bound in value):
            raise ValueError("true and false are not accepted here")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.value_range is None and len(self.labels) < 2:
            raise ValueError("labels: at least two; or value_range, for a regression task")
        regression_metrics = {"pearson", "spearman"}
        metrics = {*self.metrics, self.selection_metric}
        if self.value_range is not None:
            if self.labels or self.label_names or self.positive is not None:
                raise ValueError("a task with value_range has no labels")
            if not -inf < self.value_range[0] < self.value_range[1] < inf:
                raise ValueError("value_range: two finite numbers, the smaller one first")
            if not metrics <= regression_metrics:
                raise ValueError("metrics: of a regression task are pearson and spearman")
        elif metrics & regression_metrics:
            raise ValueError("metrics: pearson and spearman are of regression tasks (value_range)")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels has a label twice")
        for written, label in self.label_names.items():
            if label not in self.labels:
                raise ValueError(f"label_names: {written!r} stands for {label!r}, which is not among labels")
            if written in self.labels:
                raise ValueError(f"label_names: {written!r} is itself a label")
        if self.positive is not None and (len(self.labels) != 2 or self.positive not in self.labels):
            raise ValueError("positive must be one of two labels")
        if "f1_positive" in metrics and len(self.labels) != 2:
            raise ValueError("select_by, metrics: f1_positive takes two labels; f1_macro any number")
        if len({(bool(layout.text_b), len(layout.more_texts)) for layout in self.layouts}) > 1:
            raise ValueError("layouts: all of them must have the same number of texts")
        return self


def task_names() -> tuple[str, ...]:
    """The tasks that are part of fpm."""
    return tuple(sorted(path.stem for path in DEFINITIONS.glob("*.toml")))


def load_task(name_or_path: str | Path, *, also_known: tuple[str, ...] = ()) -> TaskDefinition:
    """Load the task of that name, or the task in that TOML file.

    `also_known`: other names that the user may have meant, such as those of suites.

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
    names = (*task_names(), *also_known)
    hint = did_you_mean(name, names) or f"; fpm has {', '.join(names)}, and takes a TOML file of your own"
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
