"""Random batches with the keys and shapes that the models take."""

import torch

from fpm_cli.accounting.flops import masked_positions


def random_batch(config, size, *, padded=False):
    """A batch of `size` sequences; `padded` masks the last quarter of each."""
    generator = torch.Generator().manual_seed(5)
    s, vocabulary = config.train.sequence_length, config.model.vocab_size

    def ids(length):
        return torch.randint(0, vocabulary, (size, length), generator=generator)

    keep = torch.ones(size, s, dtype=torch.bool)
    if padded:
        keep[:, s - s // 4 :] = False
    if config.family == "gpt":
        return {"tokens": ids(s), "labels": ids(s), "loss_mask": keep.float()}
    if config.family == "bert":
        masked = torch.zeros(size, s)
        masked[:, : masked_positions(s)] = 1.0
        return {
            "tokens": ids(s),
            "token_types": torch.zeros(size, s, dtype=torch.long),
            "attention_mask": keep,
            "labels": ids(s),
            "loss_mask": masked,
            "sentence_order": torch.zeros(size, dtype=torch.long),
        }
    s_d = config.train.decoder_length
    return {
        "encoder_tokens": ids(s),
        "encoder_mask": keep,
        "decoder_tokens": ids(s_d),
        "labels": ids(s_d),
        "loss_mask": torch.ones(size, s_d),
    }
