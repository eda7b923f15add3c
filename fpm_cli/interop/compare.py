"""Whether two networks compute the same: ours and its counterpart in transformers, on random tokens."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.errors import FpmError
from fpm_cli.models.bert import BERT
from fpm_cli.models.encdec import EncoderDecoder
from fpm_cli.models.gpt import GPT

TOLERANCE = 1e-5  # of the largest value, where that is above 1: float32 has seven digits
ROWS, LONGEST = 3, 64


@dataclass(frozen=True)
class Agreement:
    """How far two networks are apart, and on what."""

    compared: tuple[str, ...]
    difference: float  # the largest absolute one
    largest: float  # the largest value that was compared

    @property
    def holds(self) -> bool:
        """Whether it is no more than rounding."""
        return self.difference <= TOLERANCE * max(1.0, self.largest)

    def __str__(self) -> str:
        return (
            f"{', '.join(self.compared)} of ours and transformers differ by at most {self.difference:.1e}"
            f" (largest value {self.largest:.3g})"
        )


def compare(config: ModelConfig, ours: nn.Module, theirs: Any, absent: Collection[str] = ()) -> Agreement:
    """Run both on the same random tokens, rows of several lengths.

    Args:
        config: of our network.
        ours: in evaluation mode.
        theirs: the architecture that `counterpart` names, in evaluation mode.
        absent: BERT's heads that the weights do not have, which are not compared.

    Raises:
        FpmError: they differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    length = min(config.max_positions or LONGEST, LONGEST)

    def draw(size: int) -> Tensor:
        return torch.randint(config.vocab_size, (ROWS, size), generator=generator)

    tokens = draw(length)
    lengths = torch.tensor([length, length // 2 + 1, max(1, length // 3)])
    mask = torch.arange(length) < lengths[:, None]  # (B, S)
    with torch.inference_mode():
        if isinstance(ours, GPT):
            pairs = {"logits": (ours.logits(tokens), theirs(input_ids=tokens).logits)}
        elif isinstance(ours, EncoderDecoder):
            pairs = _encoder_decoder(ours, theirs, tokens, mask, draw(length // 2 + 1))
        else:
            assert isinstance(ours, BERT)
            pairs = _bert(ours, theirs, tokens, mask, draw(length) % 2, absent)
    found = Agreement(
        tuple(pairs),
        max(float((one - other).abs().max()) for one, other in pairs.values()),
        max(float(one.abs().max()) for one, _ in pairs.values()),
    )
    if not found.holds:
        raise FpmError(f"{found}, which is more than rounding: nothing was kept")
    return found


def _encoder_decoder(
    ours: EncoderDecoder, theirs: Any, tokens: Tensor, mask: Tensor, decoder_tokens: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    logits = ours.decode(decoder_tokens, ours.encode(tokens, mask), mask)
    expected = theirs(input_ids=tokens, attention_mask=mask.long(), decoder_input_ids=decoder_tokens)
    return {"logits": (logits, expected.logits)}


def _bert(
    ours: BERT, theirs: Any, tokens: Tensor, mask: Tensor, types: Tensor, absent: Collection[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    encoded, expected = ours.encode(tokens, types, mask), theirs.bert(tokens, mask.long(), types)
    words, order = ours.logits(tokens, types, mask)
    heads = theirs(tokens, mask.long(), types)
    pairs = {"hidden states": (encoded.hidden[mask], expected.last_hidden_state[mask])}
    if "pooler" not in absent:
        pairs["pooled state"] = (encoded.pooled, expected.pooler_output)
    if "mlm_head" not in absent:
        pairs["masked-word logits"] = (words[mask], heads.prediction_logits[mask])
    if order is not None and "sentence_order_head" not in absent and "pooler" not in absent:
        pairs["sentence-order logits"] = (order, heads.seq_relationship_logits)
    return pairs
