"""Compares the outputs of an fpm network and its architecture in transformers, on random tokens."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig, RunConfig
from fpm_cli.errors import DamagedError, FpmError
from fpm_cli.models.bert import BERT
from fpm_cli.models.classifier import Classifier
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT
from fpm_cli.ops.selection import use_reference

TOLERANCE = 1e-5  # relative to the largest value, where that is above 1: float32 has seven digits
NUM_ROWS, MAX_LENGTH = 3, 64

OutputPairs = dict[str, tuple[Tensor, Tensor]]  # by the output's name: fpm's and transformers'


@dataclass(frozen=True)
class OutputComparison:
    """The largest difference between two networks' outputs."""

    compared: tuple[str, ...]  # names of the outputs
    difference: float  # the largest absolute difference
    largest: float  # the largest absolute value of fpm's outputs

    @property
    def within_tolerance(self) -> bool:
        """Whether the difference is no more than rounding."""
        return self.difference <= TOLERANCE * max(1.0, self.largest)

    def __str__(self) -> str:
        return (
            f"{', '.join(self.compared)} of fpm and transformers differ by at most {self.difference:.1e}"
            f" (largest value {self.largest:.3g})"
        )


def compare_outputs(
    config: ModelConfig, ours: nn.Module, theirs: Any, absent: Collection[str] = ()
) -> OutputComparison:
    """Run both networks on the same random tokens, in rows of several lengths.

    Args:
        config: of the fpm network.
        ours: the fpm network, in evaluation mode.
        theirs: the model of transformers, in evaluation mode.
        absent: BERT heads that the weights do not contain, which are not compared.

    Both use PyTorch's own operators: the weights are compared, and their rounding must be the same.

    Raises:
        FpmError: the outputs differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    length = min(config.max_positions or MAX_LENGTH, MAX_LENGTH)

    def random_tokens(size: int) -> Tensor:
        return torch.randint(config.vocab_size, (NUM_ROWS, size), generator=generator)

    tokens = random_tokens(length)
    lengths = torch.tensor([length, length // 2 + 1, max(1, length // 3)])
    mask = torch.arange(length) < lengths[:, None]  # (B, S)
    with torch.inference_mode(), use_reference():
        if isinstance(ours, GPT):
            pairs = {"logits": (ours.logits(tokens), _run(theirs, input_ids=tokens).logits)}
        elif isinstance(ours, EncoderDecoder):
            pairs = _encoder_decoder_outputs(ours, theirs, tokens, mask, random_tokens(length // 2 + 1))
        else:
            assert isinstance(ours, BERT)
            pairs = _bert_outputs(ours, theirs, tokens, mask, random_tokens(length) % 2, absent)
    return require_equal(pairs)


def compare_classifiers(
    config: RunConfig, ours: Classifier, theirs: Any, last_token: int, pad_token: int | None
) -> OutputComparison:
    """Run both classifiers on the same random sequences of several lengths.

    Args:
        config: of the fine-tuned run.
        ours: the fpm network, in evaluation mode.
        theirs: the model of transformers, in evaluation mode.
        last_token: the token with which every sequence ends.
        pad_token: what rows are padded with in transformers; None compares the rows one by one.

    Raises:
        FpmError: the logits differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    length = min(config.train.sequence_length, config.model.max_positions or MAX_LENGTH, MAX_LENGTH)
    lengths = [length, length // 2 + 1, max(2, length // 3)]
    rows = [torch.randint(config.model.vocab_size, (size,), generator=generator) for size in lengths]
    for row in rows:
        row[-1] = last_token
    first_lengths = [size // 2 for size in lengths]
    types = [(torch.arange(len(row)) >= first).long() for row, first in zip(rows, first_lengths, strict=True)]
    batch = {
        "tokens": torch.cat(rows),
        "token_types": torch.cat(types),
        "lengths": torch.tensor(lengths),
        "first_lengths": torch.tensor(first_lengths),
    }
    named_types = types if config.family == "bert" else None
    with torch.inference_mode(), use_reference():
        logits = ours.logits(batch)
        if pad_token is None:
            expected = torch.cat([_padded_logits(theirs, [row], None, 0) for row in rows])
        else:
            expected = _padded_logits(theirs, rows, named_types, pad_token)
    return require_equal({"classification logits": (logits, expected)})


def _padded_logits(theirs: Any, rows: list[Tensor], types: list[Tensor] | None, pad_token: int) -> Tensor:
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_token)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    token_types = {"token_type_ids": nn.utils.rnn.pad_sequence(types, batch_first=True)} if types else {}
    logits: Tensor = _run(theirs, input_ids=tokens, attention_mask=mask, **token_types).logits
    return logits


def require_equal(pairs: OutputPairs) -> OutputComparison:
    """Compare pairs of outputs.

    Raises:
        FpmError: they differ by more than rounding.
    """
    comparison = OutputComparison(
        tuple(pairs),
        max(float((one - other).abs().max()) for one, other in pairs.values()),
        max(float(one.abs().max()) for one, _ in pairs.values()),
    )
    if not comparison.within_tolerance:
        raise FpmError(f"{comparison}, which is more than rounding; nothing was written")
    return comparison


def _run(theirs: Any, *inputs: Tensor, **named_inputs: Tensor) -> Any:
    """The outputs of a network of transformers, which somebody else's config.json may make fail."""
    try:
        return theirs(*inputs, **named_inputs)
    except Exception as error:
        raise DamagedError(f"transformers cannot run the network: {error}") from error


def _encoder_decoder_outputs(
    ours: EncoderDecoder, theirs: Any, tokens: Tensor, mask: Tensor, decoder_tokens: Tensor
) -> OutputPairs:
    logits = ours.decode(decoder_tokens, ours.encode(tokens, mask), mask)
    expected = _run(theirs, input_ids=tokens, attention_mask=mask.long(), decoder_input_ids=decoder_tokens)
    return {"logits": (logits, expected.logits)}


def _bert_outputs(
    ours: BERT, theirs: Any, tokens: Tensor, mask: Tensor, types: Tensor, absent: Collection[str]
) -> OutputPairs:
    encoded, expected = ours.encode(tokens, types, mask), _run(theirs.bert, tokens, mask.long(), types)
    token_logits, order_logits = ours.logits(tokens, types, mask)
    heads = _run(theirs, tokens, mask.long(), types)
    pairs = {"hidden states": (encoded.hidden[mask], expected.last_hidden_state[mask])}
    if "pooler" not in absent:
        pairs["pooled output"] = (encoded.pooled, expected.pooler_output)
    if "mlm_head" not in absent:
        pairs["masked-token logits"] = (token_logits[mask], heads.prediction_logits[mask])
    if order_logits is not None and "sentence_order_head" not in absent and "pooler" not in absent:
        pairs["sentence-order logits"] = (order_logits, heads.seq_relationship_logits)
    return pairs
