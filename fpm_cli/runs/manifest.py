"""The run's manifest, `manifest.json`: what a run is, where it came from, and each launch that trained it."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from fpm_cli.config.resolve import validate
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.files import replace_file
from fpm_cli.foreign import parse_json, read_whole
from fpm_cli.frozen import Frozen

SCHEMA: Literal["fpm.run/1"] = "fpm.run/1"
MANIFEST = "manifest.json"


class RunState(StrEnum):
    """How far a run has come."""

    created = "created"
    running = "running"  # or killed: nobody was left to record it
    stopped = "stopped"
    finished = "finished"
    imported = "imported"


class Launch(Frozen):
    """One process group from its start to its end."""

    command: tuple[str, ...] = ()
    started: str = ""  # ISO 8601, UTC
    devices: PositiveInt
    device_name: str
    threads_per_process: PositiveInt | None = None  # of the CPU; None: not recorded
    first_step: NonNegativeInt  # optimizer steps taken before it
    last_step: NonNegativeInt  # optimizer steps taken after it, as last recorded
    seconds: NonNegativeFloat  # wall time of training, as last recorded
    peak_memory_bytes: NonNegativeInt | None = None  # of the main rank: allocated on its GPU, or resident

    @property
    def steps(self) -> range:
        """The steps that it ran, counted from 1."""
        return range(self.first_step + 1, self.last_step + 1)

    @property
    def device_seconds(self) -> float:
        """Seconds times devices."""
        return self.seconds * self.devices

    def numeric_difference(self, earlier: "Launch") -> str:
        """In which settings that decide the order of floating-point additions it differs; empty: in none."""
        settings = {
            "processes": (earlier.devices, self.devices),
            "CPU threads per process": (earlier.threads_per_process, self.threads_per_process),
            "device": (earlier.device_name, self.device_name),
        }
        return ", ".join(
            f"{name} {before} before and {now} now"
            for name, (before, now) in settings.items()
            if before != now and None not in (before, now)
        )


class ImportRecord(Frozen):
    """Where imported weights came from."""

    model_config = ConfigDict(populate_by_name=True)

    source: str = Field(alias="from")
    architecture: str  # transformers' class
    untrained: tuple[str, ...] = ()  # heads that the source does not have: they hold initial values


class WeightsOrigin(Frozen):
    """The pretrained network that a fine-tuning starts from."""

    run: str
    name: str
    step: NonNegativeInt
    weights_fingerprint: str | None
    tokenizer_fingerprint: str


class TaskRecord(Frozen):
    """The task that a run is fine-tuned for, and the files that it was given; in the file, top-level keys."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="task")
    labels: tuple[str, ...]
    origin: WeightsOrigin = Field(alias="from")
    from_scratch: bool = False  # the origin's network with fresh weights
    train_files: tuple[str, ...] = ()
    train_fingerprints: dict[str, str | None] = Field(default_factory=dict)  # None: no single file
    validation: str  # a file, or the share of the training examples that is held back
    dev_file: str | None = None  # what `fpm evaluate` scores by default
    num_examples: dict[str, NonNegativeInt]  # of each split
    example_fingerprints: dict[str, str | None] = Field(alias="examples")  # of the encoded examples' files


_TASK_KEYS = tuple(field.alias or name for name, field in TaskRecord.model_fields.items())


class RunManifest(Frozen):
    """The content of `manifest.json`. Keys of a later version are kept as they are."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    schema_: Literal["fpm.run/1"] = Field(SCHEMA, alias="schema")
    config: RunConfig | None = None  # None in the oldest runs: config.toml alone has it
    corpus: str | None = None  # a path, relative to the run or absolute; None: the run has no corpus
    seed: NonNegativeInt = 0
    git_revision: str | None = None  # of fpm, where it runs from a checkout
    versions: dict[str, str] = Field(default_factory=dict)
    state: RunState = RunState.created
    ready: bool  # its data is complete and checked, so that training may begin
    tokenizer_fingerprint: str | None = None
    corpus_fingerprint: str | None = None
    launches: tuple[Launch, ...] = ()
    config_changes: tuple[str, ...] = ()  # allowed on a resume, oldest first
    price_per_device_hour: float | None = None  # in any currency
    cpu_peak_flops: float | None = None  # FLOP/s of all cores together, measured
    imported: ImportRecord | None = None
    task: TaskRecord | None = None

    @field_validator("config", mode="before")
    @classmethod
    def _validate_config(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        try:
            return validate(value, {})
        except UsageError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="before")
    @classmethod
    def _read_old_layouts(cls, value: Any) -> Any:
        """Collect the task's top-level keys, and derive `ready` where fpm 0.1 did not write it."""
        if not isinstance(value, dict):
            return value
        document = dict(value)
        if isinstance(document.get("task"), str):
            document["task"] = {key: document.pop(key) for key in _TASK_KEYS if key in document}
        document.setdefault("ready", document.get("tokenizer_fingerprint") is not None)
        return document

    def document(self) -> dict[str, Any]:
        """The manifest in the file's layout, as values that the json module writes."""
        # Not mode="json", which would replace what paths have in place of bytes that are not UTF-8.
        document = self.model_dump(by_alias=True, exclude={"config", "task"})
        optional = ("price_per_device_hour", "cpu_peak_flops", "imported", "config_changes")
        document = {key: value for key, value in document.items() if value or key not in optional}
        schema = {"schema": document.pop("schema")}
        config = self.config.model_dump(mode="json", exclude_none=True) if self.config else None
        task = self.task.model_dump(by_alias=True) if self.task else {}
        return {**schema, **({"config": config} if config else {}), **document, **task}

    def replaced(self, **changes: Any) -> Self:
        """This manifest with other values for some fields.

        Raises:
            pydantic.ValidationError: a value is not one of its field.
        """
        assert changes.keys() <= type(self).model_fields.keys(), changes.keys()
        return type(self).model_validate({**dict(self), **changes})

    @property
    def last_launch(self) -> Launch | None:
        """The newest launch; None before the first."""
        return self.launches[-1] if self.launches else None


def read_manifest(path: Path) -> RunManifest:
    """Read a run's manifest.

    Raises:
        DamagedError: it is missing, or is not one; names the field.
    """
    try:
        return RunManifest.model_validate(parse_json(read_whole(path)))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise DamagedError(f"{path}: {where + ': ' if where else ''}{problem['msg']}") from error
    except (FileNotFoundError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from error


def write_manifest(path: Path, manifest: RunManifest) -> None:
    """Replace a run's manifest atomically."""
    text = json.dumps(manifest.document(), indent=2, ensure_ascii=False) + "\n"
    # A path's byte that is not UTF-8 is a lone surrogate in Python; JSON can only have it escaped.
    replace_file(path, text.encode("utf-8", "backslashreplace"))
