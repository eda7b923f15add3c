"""From the flags of `fpm study depth` to a resolved study, and to what it would take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import ValidationError

from fpm_cli.cli.calibrated import stored_calibration
from fpm_cli.config.proxy import completep_assignments
from fpm_cli.config.resolve import resolve
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import MissingError, UsageError, did_you_mean
from fpm_cli.study.matching import Match, match_depth, with_depth_and_heads
from fpm_cli.study.settings import HorizonUnit, StudySettings, TaskScore, TaskSettings

if TYPE_CHECKING:
    from fpm_cli.study.estimate import Estimate

TRANSFER_RULES = ("auto", "completep", "depth-mup", "norm-scaling", "none")


@dataclass(frozen=True)
class StudyRequest:
    """The flags as they were typed."""

    preset: str
    proxy: bool
    config: Path | None
    assignments: tuple[str, ...]
    depths: str
    match: str
    width: int | None
    reference_depth: int | None
    seeds: str
    horizons: Mapping[str, str]
    transfer: str
    learning_rates: str | None
    corpus: Path | None
    task: str | None
    train_files: tuple[Path, ...]
    dev_file: Path | None
    task_assignments: tuple[str, ...]
    task_score: str | None


def resolve_study(request: StudyRequest, folder: Path) -> StudySettings:
    """Check every flag and solve for the widths.

    Raises:
        UsageError: a flag is wrong; says which.
        MissingError: a file is not there.
    """
    if request.match not in get_args(Match):
        known = get_args(Match)
        raise UsageError(
            f"--match {request.match}: one of {', '.join(known)}{did_you_mean(request.match, known)}"
        )
    depths = whole_numbers(request.depths, "depths")
    reference = _reference(request, depths)
    match = cast(Match, request.match)
    heads = tuple(
        match_depth(reference, depth, match, _predicted_seconds(reference)).config.model.num_heads
        for depth in depths
    )
    unit, horizons = _horizons(request, reference)
    rates = numbers(request.learning_rates, "learning-rates") if request.learning_rates else ()
    try:
        return StudySettings(
            name=folder.name,
            reference=reference.model_dump(mode="json", exclude_none=True),
            corpus=_corpus(request, reference),
            depths=depths,
            num_heads=heads,
            match=match,
            seeds=_seeds(request.seeds),
            horizon_unit=unit,
            horizons=horizons,
            learning_rates=rates,
            task=_task(request),
        )
    except ValidationError as error:
        raise UsageError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error


def estimate(
    settings: StudySettings, folder: Path, num_jobs: int, num_processes: int, price: float | None
) -> "Estimate":
    """What a study takes on this machine; measures a few steps of each depth."""
    from fpm_cli.cli.study_pace import measure_pace
    from fpm_cli.study.estimate import estimate_study
    from fpm_cli.study.study import Study

    study = Study(folder, settings)
    cells = (*study.tuning_cells, *study.cells({}))
    pace = measure_pace(study, cells, num_jobs)
    return estimate_study(
        cells, pace, num_jobs=num_jobs, num_processes=num_processes, price_per_device_hour=price
    )


def numbers(text: str, name: str) -> tuple[float, ...]:
    """The numbers of a flag such as `500,1e3`.

    Raises:
        UsageError: one of them is not a positive finite number.
    """
    try:
        read = tuple(float(part) for part in text.split(","))
    except ValueError:
        read = (0.0,)
    if not all(0 < value < float("inf") for value in read):
        raise UsageError(f"--{name} {text}: positive numbers, separated by commas")
    return read


def whole_numbers(text: str, name: str) -> tuple[int, ...]:
    """The whole numbers of a flag such as `2,6,12`.

    Raises:
        UsageError: one of them is not a positive whole number.
    """
    try:
        read = tuple(int(part) for part in text.split(","))
    except ValueError:
        read = (0,)
    if not all(value > 0 for value in read):
        raise UsageError(f"--{name} {text}: positive whole numbers, separated by commas")
    return read


def _reference(request: StudyRequest, depths: tuple[int, ...]) -> RunConfig:
    config = _resolved(request, ())
    config = _resolved(request, transfer_assignments(request.transfer, config))
    heads, head_size = config.model.num_heads, config.model.head_size
    if request.width:
        heads, rest = divmod(request.width, head_size)
        if rest or not heads:
            raise UsageError(f"--width {request.width}: a multiple of the head size, {head_size}")
    return with_depth_and_heads(config, request.reference_depth or min(depths), heads)


def _resolved(request: StudyRequest, transfer: tuple[str, ...]) -> RunConfig:
    """The preset with the transfer rule under the user's own assignments."""
    assignments = (*transfer, *request.assignments)
    return resolve(
        request.preset, proxy=request.proxy, config_file=request.config, assignments=assignments
    ).config


def transfer_assignments(rule: str, config: RunConfig) -> tuple[str, ...]:
    """The configuration of a transfer rule, as key=value.

    Raises:
        UsageError: an unknown rule, or one that the norm placement does not allow.
    """
    if rule not in TRANSFER_RULES:
        raise UsageError(
            f"--transfer {rule}: one of {', '.join(TRANSFER_RULES)}{did_you_mean(rule, TRANSFER_RULES)}"
        )
    pre_norm = config.model.norm_placement == "pre"
    if rule in ("completep", "norm-scaling") and not pre_norm:
        placement = config.model.norm_placement
        raise UsageError(f"--transfer {rule}: its rules are for pre-norm, and {config.name} has {placement}")
    if rule == "auto":
        rule = "completep" if pre_norm else "depth-mup"
    if rule == "completep":
        return completep_assignments(config)
    if rule == "norm-scaling":
        scaled = ("model.norm_scaled=true", "model.residual_init_scaled=false")
        return (*scaled, "train.lr_depth_scaled=false")
    return ("model.residual_init_scaled=true", f"train.lr_depth_scaled={str(rule == 'depth-mup').lower()}")


def _horizons(request: StudyRequest, reference: RunConfig) -> tuple[HorizonUnit, tuple[float, ...]]:
    if len(request.horizons) > 1:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in request.horizons)
        raise UsageError(f"{flags}: only one of them can say how long to train")
    for name, text in request.horizons.items():
        return cast(HorizonUnit, name), numbers(text, name.replace("_", "-"))
    return "steps", (float(reference.train.steps),)


def _seeds(text: str) -> tuple[int, ...]:
    """`3` is the seeds 1, 2 and 3; `7,8` are those two."""
    given = whole_numbers(text, "seeds")
    return tuple(range(1, given[0] + 1)) if len(given) == 1 else given


def _corpus(request: StudyRequest, reference: RunConfig) -> str:
    if request.corpus is None:
        if not reference.proxy:
            raise MissingError(
                f"--corpus is missing: {reference.name} trains on {reference.corpus}; build one with "
                "`fpm build-corpus`, or use --proxy, which has a sample of its own"
            )
        return "corpus"
    if not (request.corpus / "manifest.json").is_file():
        raise MissingError(f"--corpus {request.corpus}: not a corpus (it has no manifest.json)")
    return str(request.corpus.resolve())


def _task(request: StudyRequest) -> TaskSettings | None:
    if request.task is None:
        if request.train_files or request.dev_file or request.task_assignments or request.task_score:
            raise UsageError("--train, --dev, --task-set and --task-score belong to a --task")
        return None
    score = request.task_score or "accuracy"
    if score not in get_args(TaskScore):
        known = get_args(TaskScore)
        raise UsageError(f"--task-score {score}: one of {', '.join(known)}{did_you_mean(score, known)}")
    if not request.train_files or request.dev_file is None:
        raise UsageError(f"--task {request.task}: needs --train and --dev")
    for path in (*request.train_files, request.dev_file):
        if not path.is_file():
            raise MissingError(f"{path}: no such file")
    from fpm_cli.tasks.definition import load_task

    task = load_task(request.task)  # an unknown task is refused before anything is trained
    if task.is_regression or (score == "f1_positive" and task.positive_class is None):
        raise UsageError(f"--task-score {score}: {task.name} has no such score")
    return TaskSettings(
        name=str(Path(request.task).resolve()) if request.task.endswith(".toml") else request.task,
        train_files=tuple(str(path.resolve()) for path in request.train_files),
        dev_file=str(request.dev_file.resolve()),
        assignments=request.task_assignments,
        score=cast(TaskScore, score),
    )


def _predicted_seconds(reference: RunConfig) -> Any:
    calibration = stored_calibration()

    def seconds(config: RunConfig) -> float:
        if calibration is None:
            raise UsageError(
                "--match time: this machine is not calibrated; `fpm plan --calibrate` measures it"
            )
        return calibration.step_time(config).seconds

    return seconds
