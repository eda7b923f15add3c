"""The BERT objective: masked whole words, and a task over two adjacent segments A and B of the text.

The segments meet at the start of a sentence. By default a sample is `[CLS] A [SEP] B [SEP]` with A and B
swapped with probability 1/2; the model predicts the masked words and whether the segments were swapped
(sentence order: Lan et al., "ALBERT", ICLR 2020, section 3.1). Under `model.sentence_task = "match"` it is
`[CLS] A [SEP] [CLS] B [SEP]`, two sequences that do not attend to each other, and the model matches each
segment with its other one among those of the micro-batch. Sizes after NVIDIA/Megatron-LM v2.5
(megatron/data/bert_dataset.py): s tokens including the special ones, with probability 0.1 a random shorter
length, documents of at least two sentences.
"""

import numpy as np

from fpm_cli.corpus.manifest import Split
from fpm_cli.errors import DamagedError, UsageError
from fpm_cli.objectives.base import Ids, Sample, SampleCorpus, Samples, special_id
from fpm_cli.objectives.sample_spans import SampleSpans
from fpm_cli.objectives.words import MASKED_SHARE, choose_tokens, corrupt

SHORTEST_SEQUENCE = 16
SHORT_PROBABILITY = 0.1
SWAP_PROBABILITY = 0.5


class MaskedSamples(Samples):
    """`tokens`, `token_types`, `labels` int64, `attention_mask` bool, `loss_mask` float32, all (s,), and
    `sentence_order` () int64, 1 where the segments are swapped, absent with `separate_segments`. `labels` has
    the original id of every position; `token_types` is 1 for the tokens of the second segment.
    """

    def __init__(
        self,
        corpus: SampleCorpus,
        split: Split,
        *,
        sequence_length: int,
        seed: int,
        masked_share: float = MASKED_SHARE,
        separate_segments: bool = False,
    ) -> None:
        """Raises UsageError (s below 16; no document of two sentences) or DamagedError (the corpus does
        not say where words begin).
        """
        if sequence_length < SHORTEST_SEQUENCE:
            raise UsageError(
                f"train.sequence_length {sequence_length}: masked samples take at least {SHORTEST_SEQUENCE}"
            )
        tokenizer, data, word_starts = corpus.tokenizer, corpus.split(split), corpus.word_starts(split)
        if word_starts is None:
            raise DamagedError(f"the corpus has no {split}.words.bin: it was not built for a BERT model")
        self._masked_share, self._separate_segments = masked_share, separate_segments
        num_specials = 4 if separate_segments else 3
        self._length, self._target = sequence_length, sequence_length - num_specials
        self._stream, self._word_starts = data.tokens, word_starts
        self._spans = SampleSpans(data, self._target)
        self._cls, self._sep = special_id(tokenizer, "cls"), special_id(tokenizer, "sep")
        self._mask, self._pad = special_id(tokenizer, "mask"), special_id(tokenizer, "pad")
        self._ordinary: Ids = np.setdiff1d(np.arange(tokenizer.vocab_size), [*tokenizer.special.ids()])
        requirement = f"a document of two sentences, and none of its {len(data.document_index) - 1} has two"
        super().__init__(len(self._spans), seed, split, requirement)

    def build(self, position: int, index: int) -> Sample:
        """Split, truncate, swap and mask the span at `position`."""
        random = self.random(index)
        short, share, cut, swap = random.random(4).tolist()
        length = 2 + int(share * (self._target - 1)) if short < SHORT_PROBABILITY else self._target
        start, middle, end = self._spans.span(position, cut).truncated(length)
        a, b = slice(start, middle), slice(middle, end)
        if self._separate_segments:
            return self._assemble(a, b, random)
        swapped = swap < SWAP_PROBABILITY
        sample = self._assemble(b, a, random) if swapped else self._assemble(a, b, random)
        sample["sentence_order"] = np.array(int(swapped), dtype=np.int64)
        return sample

    def _assemble(self, a: slice, b: slice, random: np.random.Generator) -> Sample:
        """The two segments (slices of the stream) with masked words, padded to s."""
        a_end = 1 + a.stop - a.start  # position of the first [SEP]
        b_start = a_end + (2 if self._separate_segments else 1)
        n = b_start + b.stop - b.start + 1
        labels = np.full(self._length, self._pad, dtype=np.int64)
        labels[[0, b_start - 1]] = self._cls
        labels[[a_end, n - 1]] = self._sep
        labels[1:a_end], labels[b_start : n - 1] = self._stream[a], self._stream[b]

        word_starts = np.ones(n, dtype=np.bool_)
        word_starts[1:a_end], word_starts[b_start : n - 1] = self._word_starts[a], self._word_starts[b]
        word_starts[[1, b_start]] = True  # a segment may begin within a word
        special = np.zeros(n, dtype=np.bool_)
        special[[0, a_end, b_start - 1, n - 1]] = True
        chosen = choose_tokens(word_starts, special, random, self._masked_share)

        tokens, loss_mask = labels.copy(), np.zeros(self._length, dtype=np.float32)
        tokens[chosen] = corrupt(labels[chosen], self._mask, self._ordinary, random)
        loss_mask[chosen] = 1
        positions = np.arange(self._length)
        return {
            "tokens": tokens,
            "token_types": ((positions > a_end) & (positions < n)).astype(np.int64),
            "attention_mask": positions < n,
            "labels": labels,
            "loss_mask": loss_mask,
        }
