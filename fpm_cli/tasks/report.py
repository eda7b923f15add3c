"""Everything `fpm evaluate` says of a task: the run's scores, and those it may fairly be compared with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import ReadExamples
from fpm_cli.tasks.paper_rows import PaperRow
from fpm_cli.tasks.scores import Difference, Scores
from fpm_cli.tasks.submission import Submission

SCORE_NAMES = ("accuracy", "f1_positive", "precision_macro", "recall_macro", "f1_macro")


@dataclass(frozen=True)
class UnseenScores:
    """Scores on the examples whose text does not stand in the training files as well."""

    num_seen: int
    scores: Scores | None  # None: every text was seen


@dataclass(frozen=True)
class Compared:
    """Another system on the same examples; `differences` are the run's scores minus its."""

    system: str
    scores: Scores
    differences: Mapping[str, Difference]

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        differences = {name: asdict(each) for name, each in self.differences.items()}
        return {"system": self.system, **scores_document(self.scores), "differences": differences}


@dataclass(frozen=True)
class TaskReport:
    """What was scored, and how it went. `scores` is None where the file has no labels."""

    task: TaskDefinition
    run: Run
    split: str
    read: ReadExamples
    predictions: Path
    scores: Scores | None = None
    unseen: UnseenScores | None = None  # None: the training files are not known
    compared: tuple[Compared, ...] = ()
    paper: tuple[PaperRow, ...] = ()
    notes: tuple[str, ...] = ()
    submission: Submission | None = None

    def document(self) -> dict[str, Any]:
        """For `--json`: the names in `cli.md` of the specification, and more."""
        made = self.submission
        return {
            "task": self.task.name,
            "split": self.split,
            "run": str(self.run.path),
            "file": str(self.read.path),
            **(scores_document(self.scores) if self.scores else _unscored(self.read)),
            "labels": list(self.task.labels),
            "rows": self.read.rows,
            "rejected": [asdict(bad) for bad in self.read.rejected],
            "appended_columns": list(self.task.append),
            "unseen": self._unseen(),
            "compared": [each.document() for each in self.compared],
            "paper": [row.document() for row in self.paper],
            "notes": list(self.notes),
            "predictions": str(self.predictions),
            "submission": {**asdict(made), "path": str(made.path)} if made else None,
        }

    def _unseen(self) -> dict[str, Any] | None:
        if self.unseen is None:
            return None
        scores = scores_document(self.unseen.scores) if self.unseen.scores else {"num_examples": 0}
        return {"num_seen_in_training": self.unseen.num_seen, **scores}


def scores_document(scores: Scores) -> dict[str, Any]:
    """Scores for `--json`: fractions, `ci95` as [low, high] by name, `confusion_matrix[true][predicted]`."""
    return {
        "num_examples": scores.num_examples,
        **scores.values(),
        "ci95": {name: list(interval) for name, interval in scores.ci95.items()},
        "confusion_matrix": [list(row) for row in scores.confusion],
    }


def _unscored(read: ReadExamples) -> dict[str, Any]:
    return {"num_examples": len(read.examples), **dict.fromkeys(SCORE_NAMES), "ci95": {}}
