"""The rows of a study: what each scored run is, took and reached, read from the run folders."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.run_costs import RunCosts, read_run, run_costs
from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import replace_text
from fpm_cli.study.chains import DIVERGED, LM_SCORE, TASK_SCORE
from fpm_cli.study.matching import layer_parameters
from fpm_cli.study.settings import TaskScore
from fpm_cli.study.study import Cell, Study

TASK_SCORES: tuple[TaskScore, ...] = get_args(TaskScore)


@dataclass(frozen=True)
class ResultRow:
    """One run of the grid. Scores are None where the run has none yet, or diverged."""

    run: str
    depth: int
    hidden_size: int
    seed: int
    horizon: float
    steps: int
    learning_rate: float
    tuning: bool
    parameters: int
    layer_parameters: int
    model_flops: int  # of the whole training, a trunk's share included
    tokens: int
    seconds: float  # of wall time over all launches; a run that decays from a trunk has its own steps only
    task_seconds: float | None  # of fine-tuning, over all launches
    device_hours: float  # of pretraining and fine-tuning
    price: float | None  # of those
    peak_memory_bytes: int | None  # of one process in pretraining: a GPU's, or a CPU process's own
    diverged: bool  # in pretraining
    task_diverged: bool
    loss: float | None  # nats per prediction on the validation text
    bits_per_byte: float | None  # gpt
    task_scores: dict[str, float] | None

    @property
    def language_model_score(self) -> float | None:
        """What is compared: bits per byte where the family has them, else the loss."""
        return self.loss if self.bits_per_byte is None else self.bits_per_byte


def collect_results(study: Study, cells: Sequence[Cell]) -> list[ResultRow]:
    """A row for each cell whose run has trained or diverged, and write `results.jsonl`.

    A study without its `runs/`, as one that was archived, keeps the rows of its `results.jsonl`.
    """
    if study.is_archived:
        names = {cell.name for cell in cells}
        return [row for row in _read_results(study.path / "results.jsonl") if row.run in names]
    rows = [row for cell in cells if (row := _row(study, cell))]
    lines = (json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    replace_text(study.path / "results.jsonl", "".join(lines))
    return rows


def _read_results(path: Path) -> list[ResultRow]:
    """The rows of `results.jsonl`; a value that an earlier version did not write is None.

    Raises:
        DamagedError: a line is no row.
    """
    if not path.is_file():
        return []
    try:
        documents = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        unknown = dict.fromkeys(field.name for field in fields(ResultRow))
        return [ResultRow(**{**unknown, **document}) for document in documents]
    except (TypeError, ValueError) as error:
        raise DamagedError(f"{path}: not rows of a study: {error}") from error


def _row(study: Study, cell: Cell) -> ResultRow | None:
    folder = study.run_path(cell.name)
    diverged = (folder / DIVERGED).is_file()
    score = _document(folder / LM_SCORE)
    if score is None and not diverged:
        return None
    config = cell.config
    try:
        record = read_run(folder)
    except MissingError:
        return None
    costs, flops, tuned_folder = run_costs(record), step_flops(config), study.task_run_path(cell)
    tuned = _document(tuned_folder / TASK_SCORE) if study.settings.task else None
    tuned_costs = _costs(tuned_folder) if tuned else None
    every = [costs, *([tuned_costs] if tuned_costs else [])]
    prices = [each.price for each in every if each.price is not None]
    memory = [each.peak_memory_bytes for each in record.launches if each.peak_memory_bytes]
    return ResultRow(
        run=cell.name,
        depth=cell.depth,
        hidden_size=config.model.hidden_size,
        seed=cell.seed,
        horizon=cell.horizon,
        steps=config.train.steps,
        learning_rate=cell.learning_rate,
        tuning=cell.tuning,
        parameters=count_parameters(config),
        layer_parameters=layer_parameters(config),
        model_flops=flops.model * config.train.steps,
        tokens=flops.tokens * config.train.steps,
        seconds=costs.hours * 3600,
        task_seconds=tuned_costs.hours * 3600 if tuned_costs else None,
        device_hours=sum(each.device_hours for each in every),
        price=sum(prices) if len(prices) == len(every) else None,
        peak_memory_bytes=max(memory) if memory else None,
        diverged=diverged,
        task_diverged=(tuned_folder / DIVERGED).is_file(),
        loss=None if diverged or not score else float(score["loss"]),
        bits_per_byte=None if diverged or not score else score.get("bits_per_byte"),
        task_scores={name: float(tuned[name]) for name in TASK_SCORES if tuned.get(name) is not None}
        if tuned
        else None,
    )


def _costs(folder: Path) -> RunCosts | None:
    try:
        return run_costs(read_run(folder))
    except MissingError:
        return None


def _document(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(
            f"{path}: not JSON ({error}); remove it, and `fpm study resume` scores the run again"
        ) from error
    assert isinstance(document, dict)
    return document
