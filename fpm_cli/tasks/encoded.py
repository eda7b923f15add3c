"""A task's examples as token ids: encoding, storage and batches."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fpm_cli import cuda
from fpm_cli.config.schema import Family
from fpm_cli.engine.batches import Batch
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.objectives.base import special_id
from fpm_cli.tasks.examples import Example
from fpm_cli.tokenization.base import Tokenizer

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
UNLABELLED = -1


@dataclass(frozen=True)
class EncodedExamples:
    """n sequences, concatenated without padding."""

    tokens: Ids  # (T,)
    lengths: Ids  # (n,)
    first_lengths: Ids  # (n,): tokens before the second text, with token type 0
    labels: Ids | Values  # (n,): classes, UNLABELLED where there is none; or values, NaN where there is none
    family: Family
    start_token: int  # the decoder's input in `encdec`; 0 in the other families

    def __len__(self) -> int:
        return len(self.lengths)

    def save(self, path: Path) -> None:
        """Write a new safetensors file."""
        arrays = {name: getattr(self, name) for name in ("tokens", "lengths", "first_lengths", "labels")}
        save_file(arrays, path, {"family": self.family, "start_token": str(self.start_token)})

    def batch(self, rows: Ids, device: torch.device) -> Batch:
        """The sequences at `rows`, in that order, as input of `models.classifier.Classifier`.

        GPT and BERT read them concatenated; sort `rows` by length, so that equal lengths are adjacent.
        """
        lengths = self.lengths[rows]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # (T,)
        tokens = self.tokens[np.repeat(np.cumsum(self.lengths)[rows] - lengths, lengths) + within]
        arrays: dict[str, npt.NDArray[Any]] = {"labels": self.labels[rows]}
        if self.family == "encdec":
            keep = np.arange(lengths.max()) < lengths[:, None]  # (n, S)
            padded = np.zeros(keep.shape, dtype=np.int64)
            padded[keep] = tokens
            start = np.full((len(rows), 1), self.start_token)
            arrays |= {"encoder_tokens": padded, "encoder_mask": keep, "decoder_tokens": start}
        else:
            arrays |= {"tokens": tokens, "lengths": lengths}
            if self.family == "bert":
                first = self.first_lengths[rows]
                token_types = (within >= np.repeat(first, lengths)).astype(np.int64)
                arrays |= {"token_types": token_types, "first_lengths": first}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {
            name: each if name.endswith("lengths") else cuda.to_device(each, device)
            for name, each in tensors.items()
        }


def load_encoded(path: Path) -> EncodedExamples:
    """Read a file that `EncodedExamples.save` wrote.

    Raises:
        DamagedError: it is missing or is not such a file.
    """
    try:
        arrays = load_file(path)
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            about = json.loads(file.read(size))["__metadata__"]
        return EncodedExamples(**arrays, family=about["family"], start_token=int(about["start_token"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path}: not the encoded examples of a run ({error})") from error


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    family: Family,
    max_length: int,
    *,
    regression: bool = False,
) -> EncodedExamples:
    """Encode texts with the special tokens of the family.

        bert           [CLS] A [SEP]    [CLS] A [SEP] B [SEP]     (Devlin et al. 2019, section 3)
        gpt, encdec    A <eod>          A <eod> B <eod>

    Further texts follow in the same way; all texts after the first have token type 1. Too long a sequence
    loses tokens from the end of the longest of its texts, one by one (google-research/bert,
    run_classifier.py, `_truncate_seq_pair`). With `regression` the labels are values.

    Raises:
        DamagedError: the tokenizer has no such special token.
        UsageError: `max_length` leaves no room for text.
    """
    bert = family == "bert"
    before = [special_id(tokenizer, "cls")] if bert else []
    after = special_id(tokenizer, "sep" if bert else "eod")
    num_texts = max((len(example.texts) for example in examples), default=1)
    room = max_length - len(before) - num_texts
    if room < num_texts:
        raise UsageError(f"train.sequence_length {max_length} leaves no room for text")
    columns = [
        tokenizer.encode_batch([example.texts[place] for example in examples]) for place in range(num_texts)
    ]
    sequences: list[list[int]] = []
    first_lengths: list[int] = []
    for texts in zip(*columns, strict=True):
        kept = truncated([len(ids) for ids in texts], room)
        parts = [[*ids[:length], after] for ids, length in zip(texts, kept, strict=True)]
        sequences.append([*before, *chain.from_iterable(parts)])
        first_lengths.append(len(before) + len(parts[0]))
    return EncodedExamples(
        tokens=np.array([token for sequence in sequences for token in sequence], dtype=np.int64),
        lengths=np.array([len(sequence) for sequence in sequences], dtype=np.int64),
        first_lengths=np.array(first_lengths, dtype=np.int64),
        labels=_labels(examples, regression=regression),
        family=family,
        start_token=special_id(tokenizer, "bos") if family == "encdec" else 0,
    )


def _labels(examples: Sequence[Example], *, regression: bool) -> Ids | Values:
    if regression:
        values = [float("nan") if example.label is None else example.label for example in examples]
        return np.array(values, dtype=np.float32)
    classes = [UNLABELLED if example.label is None else example.label for example in examples]
    return np.array(classes, dtype=np.int64)


def truncated(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens of each text are kept, the longest one losing first; of equals the last."""
    kept = list(lengths)
    while sum(kept) > room:
        longest = max(range(len(kept)), key=lambda place: (kept[place], place))
        kept[longest] -= 1
    return kept
