"""The GPT objective: predict each next token of the documents, joined with `<eod>` into one stream.

After Megatron-LM (megatron/data/gpt_dataset.py, v2.5): samples of s + 1 tokens that overlap by one, so
that every token but the first of the stream is a label once; a sample runs across document borders,
and attention does too.
"""

import numpy as np

from fpm_cli.corpus.manifest import Split
from fpm_cli.objectives.base import Sample, SampleCorpus, Samples, special_id


class CausalSamples(Samples):
    """`tokens`, `labels` (s,) int64, the labels one token ahead; `loss_mask` (s,) float32."""

    def __init__(
        self,
        corpus: SampleCorpus,
        split: Split,
        *,
        sequence_length: int,
        seed: int,
        mask_eod: bool = False,
    ) -> None:
        """`mask_eod` leaves out the loss where the input is `<eod>`: nothing there foretells the next
        document (Megatron-LM's `--eod-mask-loss`, off there too).

        Raises:
            UsageError: fewer than s + 1 tokens.
        """
        data = corpus.split(split)
        self._tokens, self._length = data.tokens, sequence_length
        self._masked_id = special_id(corpus.tokenizer, "eod") if mask_eod else None
        super().__init__(
            (data.num_tokens - 1) // sequence_length,
            seed,
            split,
            f"{sequence_length + 1} tokens (train.sequence_length + 1), and it has {data.num_tokens}",
        )

    def build(self, position: int, index: int) -> Sample:
        """The s tokens from `position` * s on; nothing is random here but the order."""
        start, end = position * self._length, (position + 1) * self._length
        tokens = self._tokens[start:end].astype(np.int64)
        labels = self._tokens[start + 1 : end + 1].astype(np.int64)
        loss_mask = np.ones(self._length, dtype=np.float32)
        if self._masked_id is not None:
            loss_mask[tokens == self._masked_id] = 0
        return {"tokens": tokens, "labels": labels, "loss_mask": loss_mask}
