"""A fine-tuned run's predictions on the examples of a file, and the JSON lines that record them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpm_cli.errors import DivergedError
from fpm_cli.files import replace_text
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import Example, ReadExamples

# Returns the probability of each class, (n, num_labels), or the value that a regression predicts, (n, 1).
PredictFunction = Callable[[Run, TaskDefinition, Sequence[Example]], NDArray[np.float32]]


@dataclass(frozen=True)
class Predictions:
    """The outputs of one run for each example."""

    run: Run
    task: TaskDefinition
    outputs: NDArray[np.float32]  # (n, num_labels) probabilities, or (n, 1) values

    @property
    def predicted(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """The most probable class of each example, or its value within the task's range, (n,)."""
        if self.task.value_range is not None:
            low, high = self.task.value_range
            return np.asarray(self.outputs[:, 0].clip(low, high), dtype=float)
        return np.asarray(np.argmax(self.outputs, axis=1), dtype=np.int64)

    def written(self) -> list[str]:
        """The predictions as a submission file has them."""
        if self.task.is_regression:
            return [f"{value:.3f}" for value in self.predicted]
        return [self.task.labels[int(each)] for each in self.predicted]


def predict_examples(
    predict: PredictFunction, run: Run, task: TaskDefinition, examples: ReadExamples
) -> Predictions:
    """Predict every example.

    Raises:
        DivergedError: the run predicts values that are not numbers.
    """
    outputs = predict(run, task, examples.examples)
    assert outputs.shape == (len(examples.examples), task.num_outputs)
    if not np.isfinite(outputs).all():
        raise DivergedError(f"{run.path}: its predictions are not numbers; training diverged")
    return Predictions(run, task, outputs)


def write_predictions(predictions: Predictions, examples: ReadExamples, split: str) -> Path:
    """Write `predictions-SPLIT.jsonl` into the run.

    Each line has id, label (null: unknown) and prediction; of a classification also the probabilities.
    """
    rows = []
    for example, predicted, outputs in zip(
        examples.examples, predictions.predicted, predictions.outputs, strict=True
    ):
        row: dict[str, Any] = {"id": example.id}
        if predictions.task.is_regression:
            row |= {"label": example.label, "prediction": round(float(predicted), 6)}
        else:
            labels = predictions.task.labels
            row |= {
                "label": None if example.label is None else labels[int(example.label)],
                "prediction": labels[int(predicted)],
                "probabilities": [round(float(p), 6) for p in outputs],
            }
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    path = predictions.run.path / f"predictions-{split}.jsonl"
    replace_text(path, "".join(rows))
    return path
