"""A task's examples as token ids: encoding, storage and batches."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fpm_cli.config.schema import Family
from fpm_cli.engine.batches import Batch
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.objectives.base import special_id
from fpm_cli.tasks.examples import Example
from fpm_cli.tokenization.base import Tokenizer

Ids = npt.NDArray[np.int64]
UNLABELLED = -1


@dataclass(frozen=True)
class EncodedExamples:
    """n sequences, concatenated without padding."""

    tokens: Ids  # (T,)
    lengths: Ids  # (n,)
    first_lengths: Ids  # (n,): tokens before the second text, with token type 0
    labels: Ids  # (n,), UNLABELLED where there is none
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
        return {name: each if name.endswith("lengths") else each.to(device) for name, each in tensors.items()}


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
    examples: Sequence[Example], tokenizer: Tokenizer, family: Family, max_length: int
) -> EncodedExamples:
    """Encode texts with the special tokens of the family.

        bert           [CLS] A [SEP]    [CLS] A [SEP] B [SEP]     (Devlin et al. 2019, section 3)
        gpt, encdec    A <eod>          A <eod> B <eod>

    Too long a sequence loses tokens from the end of the longer of its texts, one by one
    (google-research/bert, run_classifier.py, `_truncate_seq_pair`).

    Raises:
        DamagedError: the tokenizer has no such special token.
        UsageError: `max_length` leaves no room for text.
    """
    bert = family == "bert"
    before = [special_id(tokenizer, "cls")] if bert else []
    after = special_id(tokenizer, "sep" if bert else "eod")
    pairs = any(example.text_b is not None for example in examples)
    room = max_length - len(before) - (2 if pairs else 1)
    if room < 2:
        raise UsageError(f"train.sequence_length {max_length} leaves no room for text")
    firsts = tokenizer.encode_batch([example.text_a for example in examples])
    seconds = tokenizer.encode_batch([example.text_b or "" for example in examples]) if pairs else None
    sequences: list[list[int]] = []
    first_lengths: list[int] = []
    for row, first in enumerate(firsts):
        second = seconds[row] if seconds else []
        kept_first, kept_second = truncated(len(first), len(second), room)
        sequence = [*before, *first[:kept_first], after]
        first_lengths.append(len(sequence))
        if seconds:
            sequence += [*second[:kept_second], after]
        sequences.append(sequence)
    return EncodedExamples(
        tokens=np.array([token for sequence in sequences for token in sequence], dtype=np.int64),
        lengths=np.array([len(sequence) for sequence in sequences], dtype=np.int64),
        first_lengths=np.array(first_lengths, dtype=np.int64),
        labels=np.array([UNLABELLED if e.label is None else e.label for e in examples], dtype=np.int64),
        family=family,
        start_token=special_id(tokenizer, "bos") if family == "encdec" else 0,
    )


def truncated(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text are kept, the longer one losing first; of equals the second."""
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second
