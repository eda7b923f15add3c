"""The GPT objective: predict each next token of the documents, joined with `<eod>` into one stream.

After Megatron-LM (megatron/data/gpt_dataset.py, v2.5): samples of s + 1 tokens that overlap by one, so
that every token but the first of the stream is a label once. A sample crosses document boundaries, and
so does attention, unless `document_mask` numbers the documents so that the model masks across them
(Megatron-LM's `--reset-attention-mask` and `--reset-position-ids` together).
"""

import numpy as np

from fpm_cli.corpus.manifest import Split
from fpm_cli.objectives.base import Sample, SampleCorpus, Samples, special_id


class CausalSamples(Samples):
    """`tokens`, `labels` (s,) int64, the labels one token ahead; `loss_mask` (s,) float32.

    With `document_mask` also `documents` (s,) int64: 0 for the tokens of the sample's first document,
    including its `<eod>`, 1 for those of the next, and so on.
    """

    def __init__(
        self,
        corpus: SampleCorpus,
        split: Split,
        *,
        sequence_length: int,
        seed: int,
        mask_eod: bool = False,
        document_mask: bool = False,
    ) -> None:
        """`mask_eod` masks the loss where the input is `<eod>`, because the next document cannot be predicted
        from it (Megatron-LM's `--eod-mask-loss`, off there too).

        Raises:
            UsageError: fewer than s + 1 tokens.
        """
        data = corpus.split(split)
        self._tokens, self._length = data.tokens, sequence_length
        self._mask_eod, self._document_mask = mask_eod, document_mask
        self._eod = special_id(corpus.tokenizer, "eod") if mask_eod or document_mask else None
        super().__init__(
            (data.num_tokens - 1) // sequence_length,
            seed,
            split,
            f"{sequence_length + 1} tokens (train.sequence_length + 1), and it has {data.num_tokens}",
        )

    def build(self, position: int, index: int) -> Sample:
        """The s tokens from `position` * s on, and their labels; only the order of samples is random."""
        start, end = position * self._length, (position + 1) * self._length
        tokens = self._tokens[start:end].astype(np.int64)
        labels = self._tokens[start + 1 : end + 1].astype(np.int64)
        loss_mask = np.ones(self._length, dtype=np.float32)
        ends = tokens == self._eod
        if self._mask_eod:
            loss_mask[ends] = 0
        sample: Sample = {"tokens": tokens, "labels": labels, "loss_mask": loss_mask}
        if self._document_mask:
            sample["documents"] = np.cumsum(ends) - ends  # an <eod> belongs to the document it ends
        return sample
