"""`study.toml`: the grid of a depth study, what is held equal, how long each run trains, what is scored."""

from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, PositiveInt, ValidationError, model_validator

from fpm_cli.accounting.horizon import Horizon, steps_of
from fpm_cli.config.presets import read_toml
from fpm_cli.config.resolve import validate
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import replace_text
from fpm_cli.frozen import Frozen
from fpm_cli.study.matching import Match, with_depth_and_heads

STUDY_FILE = "study.toml"
TaskScore = Literal["accuracy", "f1_positive", "f1_macro"]
HorizonUnit = Literal["steps", "tokens", "flops", "tokens_per_parameter"]


class TaskSettings(Frozen):
    """A task that every trained run is fine-tuned for and scored on."""

    name: str = Field(description="a task that fpm knows, or the path of a task's TOML file")
    train_files: tuple[str, ...]
    dev_file: str
    assignments: tuple[str, ...] = Field((), description="key=value, as `fpm finetune --set` takes them")
    score: TaskScore = "accuracy"


class StudySettings(Frozen):
    """A study, resolved. Everything that its runs compute follows from it and from the files it names."""

    name: str
    reference: dict[str, Any] = Field(description="the configuration at the reference depth and width")
    corpus: str = Field(
        description="what every run trains on and is scored on; a relative path lies in the study"
    )
    depths: tuple[PositiveInt, ...] = Field(min_length=1)
    num_heads: tuple[PositiveInt, ...] = Field(description="of each depth, as solved for `match`")
    match: Match = "width"
    seeds: tuple[int, ...] = Field(min_length=1)
    horizon_unit: HorizonUnit = "steps"
    horizons: tuple[float, ...] = Field(min_length=1, description="rising; each is scored")
    learning_rates: tuple[float, ...] = Field(
        (), description="tried at each depth on a short horizon; empty: the reference's rate is transferred"
    )
    tuning_share: float = Field(0.25, gt=0, le=1, description="of the longest horizon, for each rate tried")
    task: TaskSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("depths", "seeds", "horizons", "learning_rates"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: {', '.join(map(str, values))} has a value twice")
        if len(self.num_heads) != len(self.depths):
            raise ValueError("num_heads: one for each depth")
        if list(self.horizons) != sorted(self.horizons) or self.horizons[0] <= 0:
            raise ValueError("horizons: positive numbers in rising order")
        if len(self.horizons) > 1 and self.reference_config.train.schedule != "wsd":
            raise ValueError(
                "several horizons: train.schedule must be 'wsd', whose runs share their constant part"
            )
        return self

    @property
    def reference_config(self) -> RunConfig:
        """The reference as a typed configuration."""
        return validate(dict(self.reference), {})

    def config(self, depth: int, seed: int, horizon: float) -> RunConfig:
        """The configuration of one run, with its width, steps and seed."""
        heads = self.num_heads[self.depths.index(depth)]
        matched = with_depth_and_heads(self.reference_config, depth, heads)
        steps = (
            max(1, round(horizon))
            if self.horizon_unit == "steps"
            else steps_of(matched, Horizon(**{self.horizon_unit: horizon}))
        )
        train = matched.train.model_copy(update={"seed": seed, "steps": steps})
        return matched.model_copy(update={"train": train})


def write_settings(settings: StudySettings, folder: Path) -> None:
    """Write `study.toml`."""
    document = settings.model_dump(mode="json", exclude_none=True)
    replace_text(folder / STUDY_FILE, tomli_w.dumps(document))


def read_settings(folder: Path) -> StudySettings:
    """Read `study.toml` of a study folder.

    Raises:
        MissingError: it is not there.
        DamagedError: it is not what `write_settings` writes.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise MissingError(f"{folder}: not a study (it has no {STUDY_FILE})")
    try:
        return StudySettings.model_validate(read_toml(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
