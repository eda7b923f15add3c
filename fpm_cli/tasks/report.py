"""The result of `fpm evaluate` on a task: the run's scores, and those of the systems compared with it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import ReadExamples
from fpm_cli.tasks.overlap import Overlap
from fpm_cli.tasks.paper_rows import PaperRow
from fpm_cli.tasks.scores import Difference, Scores
from fpm_cli.tasks.submission import Submission

CLASSIFICATION_METRICS = (
    "accuracy",
    "f1_positive",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "matthews",
)
REGRESSION_METRICS = ("pearson", "spearman")


@dataclass(frozen=True)
class UnseenScores:
    """Scores on the examples whose text is not in the training files."""

    num_seen: int
    scores: Scores | None  # None: every text was seen


@dataclass(frozen=True)
class ComparedSystem:
    """Another system on the same examples; `differences` are the run's scores minus its."""

    system: str
    scores: Scores
    differences: Mapping[str, Difference]

    def document(self) -> dict[str, Any]:
        """The document for `--json`."""
        differences = {name: asdict(each) for name, each in self.differences.items()}
        return {"system": self.system, **scores_document(self.scores), "differences": differences}


@dataclass(frozen=True)
class TaskReport:
    """What was scored, and the result. `scores` is None where the file has no labels."""

    task: TaskDefinition
    run: Run
    split: str
    examples: ReadExamples
    predictions: Path | None  # None: the run folder cannot be written to
    scores: Scores | None = None
    unseen: UnseenScores | None = None  # None: the training files are not known
    compared: tuple[ComparedSystem, ...] = ()
    paper: tuple[PaperRow, ...] = ()
    notes: tuple[str, ...] = ()
    submission: Submission | None = None
    unknown_tokens: float | None = None  # share of the texts' tokens; None: the run has no tokenizer
    overlap: Overlap | None = None  # with the corpus that the network was pretrained on
    overlap_unknown: str | None = None  # why a pretraining corpus was not searched
    outside_corpus: Scores | None = None  # on the examples of which no part is in that corpus

    def document(self) -> dict[str, Any]:
        """The document for `--json`."""
        submission = self.submission
        return {
            "task": self.task.name,
            "split": self.split,
            "run": str(self.run.path),
            "file": str(self.examples.path),
            **(scores_document(self.scores) if self.scores else self._unscored()),
            "labels": list(self.task.labels),
            "rows": self.examples.rows,
            "rejected": [asdict(row) for row in self.examples.rejected],
            "appended_columns": list(self.task.append),
            "unseen": self._unseen(),
            "compared": [each.document() for each in self.compared],
            "paper": [row.document() for row in self.paper],
            "notes": list(self.notes),
            "unknown_tokens": self.unknown_tokens,
            "overlap": self._overlap(),
            "predictions": str(self.predictions) if self.predictions else None,
            "submission": {**asdict(submission), "path": str(submission.path)} if submission else None,
        }

    def _unscored(self) -> dict[str, Any]:
        names = REGRESSION_METRICS if self.task.is_regression else CLASSIFICATION_METRICS
        return {"num_examples": len(self.examples.examples), **dict.fromkeys(names), "ci95": {}}

    def _overlap(self) -> dict[str, Any] | None:
        if self.overlap is None:
            return {"not_searched": self.overlap_unknown} if self.overlap_unknown else None
        outside = self.outside_corpus
        return {
            "corpus": str(self.overlap.corpus),
            "num_whole": int(self.overlap.whole.sum()),
            "num_overlapping": int(self.overlap.some.sum()),
            "outside": scores_document(outside) if outside else None,
        }

    def _unseen(self) -> dict[str, Any] | None:
        if self.unseen is None:
            return None
        scores = scores_document(self.unseen.scores) if self.unseen.scores else {"num_examples": 0}
        return {"num_seen_in_training": self.unseen.num_seen, **scores}


def scores_document(scores: Scores) -> dict[str, Any]:
    """Scores for `--json`: fractions, `ci95` as [low, high] by name, `confusion_matrix[true][predicted]`."""
    names = CLASSIFICATION_METRICS if scores.confusion else REGRESSION_METRICS
    return {
        "num_examples": scores.num_examples,
        **{name: scores.metrics.get(name) for name in names},
        "ci95": {name: list(interval) for name, interval in scores.ci95.items()},
        **({"confusion_matrix": [list(row) for row in scores.confusion]} if scores.confusion else {}),
    }
