"""A fine-tuned run's predictions on the examples of a file, and the JSON lines that record them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fpm_cli.errors import DivergedError
from fpm_cli.files import replace_text
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import Example, ReadExamples

# Returns the probability of each class, (n, num_labels).
PredictFunction = Callable[[Run, TaskDefinition, Sequence[Example]], NDArray[np.float32]]


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of each example by one run."""

    run: Run
    probabilities: NDArray[np.float32]  # (n, num_labels)

    @property
    def classes(self) -> NDArray[np.int64]:
        """The most probable class of each example, (n,)."""
        return np.asarray(np.argmax(self.probabilities, axis=1), dtype=np.int64)


def predict_examples(
    predict: PredictFunction, run: Run, task: TaskDefinition, examples: ReadExamples
) -> Predictions:
    """Predict every example.

    Raises:
        DivergedError: the run predicts values that are not numbers.
    """
    probabilities = predict(run, task, examples.examples)
    assert probabilities.shape == (len(examples.examples), len(task.labels))
    if not np.isfinite(probabilities).all():
        raise DivergedError(f"{run.path}: its predictions are not numbers; training diverged")
    return Predictions(run, probabilities)


def write_predictions(
    predictions: Predictions, task: TaskDefinition, examples: ReadExamples, split: str
) -> Path:
    """Write `predictions-SPLIT.jsonl` into the run: id, label (null: unknown), prediction, probabilities."""
    rows = (
        {
            "id": example.id,
            "label": None if example.label is None else task.labels[example.label],
            "prediction": task.labels[predicted],
            "probabilities": [round(float(p), 6) for p in probabilities],
        }
        for example, predicted, probabilities in zip(
            examples.examples, predictions.classes, predictions.probabilities, strict=True
        )
    )
    path = predictions.run.path / f"predictions-{split}.jsonl"
    replace_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
