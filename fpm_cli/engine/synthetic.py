"""Batches of random tokens, to measure and test optimizer steps without a corpus."""

import torch
from torch import Tensor

from fpm_cli.accounting.flops import masked_positions
from fpm_cli.config.schema import RunConfig


def synthetic_batch(config: RunConfig, size: int) -> dict[str, Tensor]:
    """A batch of `size` sequences of random tokens, with the keys and shapes of the family."""
    generator = torch.Generator().manual_seed(config.train.seed)
    s, s_d = config.train.sequence_length, config.train.decoder_length

    def ids(length: int) -> Tensor:
        return torch.randint(0, config.model.vocab_size, (size, length), generator=generator)

    keep = torch.ones(size, s, dtype=torch.bool)
    if config.family == "gpt":
        return {"tokens": ids(s), "labels": ids(s), "loss_mask": keep.float()}
    if config.family == "bert":
        masked = torch.zeros(size, s)
        masked[:, : masked_positions(config.train)] = 1.0
        second_half = (torch.arange(s) >= s // 2).long().expand(size, s)
        return {
            "tokens": ids(s),
            "token_types": second_half.contiguous(),
            "attention_mask": keep,
            "labels": ids(s),
            "loss_mask": masked,
            "sentence_order": torch.zeros(size, dtype=torch.long),
        }
    return {
        "encoder_tokens": ids(s),
        "encoder_mask": keep,
        "decoder_tokens": ids(s_d),
        "labels": ids(s_d),
        "loss_mask": torch.ones(size, s_d),
    }
