"""Predicts class probabilities or values with the best checkpoint of a fine-tuned run, without padding."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from fpm_cli.accounting.inference import prediction_memory
from fpm_cli.inference.trained_model import load_trained_classifier
from fpm_cli.models.classifier import Classifier
from fpm_cli.progress import Report, ignore_report
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.encoded import Ids, encode_examples
from fpm_cli.tasks.examples import Example
from fpm_cli.tasks.recipe import both_orders

TOKENS_PER_BATCH = 4096


def predict(
    run: Run, task: TaskDefinition, examples: Sequence[Example], report: Report = ignore_report
) -> npt.NDArray[np.float32]:
    """The probability of each class for each example, (n, num_labels); or the predicted value, (n, 1).

    With `finetune.both_orders` it is the mean over both orders of each pair, which are reported one after
    the other.

    Raises:
        MissingError: there is no checkpoint, or no tokenizer.
        DamagedError: a file is damaged, or the weights belong to another network.
        OutOfMemoryError: the memory that is free does not suffice.
    """
    trained = load_trained_classifier(run, plan=partial(prediction_memory, tokens=TOKENS_PER_BATCH))
    config, model, tokenizer, device = trained.config, trained.model, trained.tokenizer, trained.device
    assert isinstance(model, Classifier)

    def outputs_of(examples: Sequence[Example]) -> npt.NDArray[np.float32]:
        encoded = encode_examples(examples, tokenizer, config.family, config.train.sequence_length)
        outputs = np.empty((len(examples), task.num_outputs), dtype=np.float32)
        done = 0
        report(0, len(examples))
        with torch.inference_mode():
            for rows in _batches(encoded.lengths):
                logits = model.logits(encoded.batch(rows, device)).float()
                outputs[rows] = (logits if task.is_regression else logits.softmax(dim=1)).cpu().numpy()
                done += len(rows)
                report(done, len(examples))
        return outputs

    outputs = outputs_of(examples)
    if both_orders(config):
        outputs += outputs_of([example.swapped() for example in examples])
        outputs /= 2
    return outputs


def _batches(lengths: Ids) -> Iterator[Ids]:
    """Rows sorted by length, in batches of about TOKENS_PER_BATCH tokens."""
    order = np.argsort(lengths, kind="stable")
    batch_of = np.cumsum(lengths[order]) // TOKENS_PER_BATCH
    return (order[batch_of == number] for number in np.unique(batch_of))
