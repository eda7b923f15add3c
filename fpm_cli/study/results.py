"""The rows of a study: what each scored run is, took and reached, read from the run folders."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.accounting.run_costs import read_run, run_costs
from fpm_cli.errors import DamagedError, MissingError
from fpm_cli.files import replace_text
from fpm_cli.study.chains import DIVERGED, LM_SCORE, TASK_SCORE
from fpm_cli.study.matching import layer_parameters
from fpm_cli.study.study import Cell, Study


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
    device_hours: float
    price: float | None
    peak_memory_bytes: int | None
    diverged: bool
    loss: float | None  # nats per prediction on the validation text
    bits_per_byte: float | None  # gpt
    task_scores: dict[str, float] | None

    @property
    def language_model_score(self) -> float | None:
        """What is compared: bits per byte where the family has them, else the loss."""
        return self.loss if self.bits_per_byte is None else self.bits_per_byte


def collect_results(study: Study, cells: Sequence[Cell]) -> list[ResultRow]:
    """A row for each cell whose run has trained or diverged, and write `results.jsonl`."""
    rows = [row for cell in cells if (row := _row(study, cell))]
    lines = (json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    replace_text(study.path / "results.jsonl", "".join(lines))
    return rows


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
    costs, flops = run_costs(record), step_flops(config)
    tuned = _document(study.task_run_path(cell) / TASK_SCORE) if study.settings.task else None
    names = ("accuracy", "f1_positive", "f1_macro")
    memory = [int(row["memory_bytes"]) for row in record.train_rows if row.get("memory_bytes")]
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
        device_hours=costs.device_hours,
        price=costs.price,
        peak_memory_bytes=max(memory) if memory else None,
        diverged=diverged,
        loss=None if diverged or not score else float(score["loss"]),
        bits_per_byte=None if diverged or not score else score.get("bits_per_byte"),
        task_scores={name: float(tuned[name]) for name in names if tuned.get(name) is not None}
        if tuned
        else None,
    )


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
