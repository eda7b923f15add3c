"""What a fine-tuned run says of examples: class probabilities from its best checkpoint, without padding."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from fpm_cli.checkpoints.checkpoint import load_weights
from fpm_cli.errors import DamagedError
from fpm_cli.models.classifier import Classifier
from fpm_cli.runs.run import Run
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.encoded import Ids, encode_examples
from fpm_cli.tasks.examples import Example
from fpm_cli.tasks.recipe import both_orders
from fpm_cli.tokenization.registry import load_tokenizer

TOKENS_A_PASS = 4096


def predict(run: Run, task: TaskDefinition, examples: Sequence[Example]) -> npt.NDArray[np.float32]:
    """The probability of each class for each example, (n, num_labels).

    The checkpoint is the one that validated best, or the newest where none was validated. With
    `finetune.both_orders` it is the mean over both orders of each pair.

    Raises:
        MissingError: there is no checkpoint, or no tokenizer.
        DamagedError: a file is damaged, or the weights are of another network.
    """
    config = run.config()
    weights, _ = load_weights(run, best=True)
    with torch.device("meta"):
        model = Classifier(config, len(task.labels))
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DamagedError(f"{run.path}: the checkpoint does not fit config.toml: {error}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.float().to(device).eval()
    tokenizer = load_tokenizer(run.tokenizer_path)

    def probabilities(of: Sequence[Example]) -> npt.NDArray[np.float32]:
        encoded = encode_examples(of, tokenizer, config.family, config.train.sequence_length)
        found = np.empty((len(of), len(task.labels)), dtype=np.float32)
        with torch.inference_mode():
            for rows in _passes(encoded.lengths):
                logits = model.logits(encoded.batch(rows, device)).float()
                found[rows] = logits.softmax(dim=1).cpu().numpy()
        return found

    found = probabilities(examples)
    if both_orders(config):
        found += probabilities([example.swapped() for example in examples])
        found /= 2
    return found


def _passes(lengths: Ids) -> Iterator[Ids]:
    """Rows sorted by length, in stretches of about TOKENS_A_PASS tokens."""
    order = np.argsort(lengths, kind="stable")
    passes = np.cumsum(lengths[order]) // TOKENS_A_PASS
    return (order[passes == number] for number in np.unique(passes))
