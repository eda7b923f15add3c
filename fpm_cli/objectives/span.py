"""The encoder-decoder objective: T5's span corruption with CPM-2's tokens.

A stretch of the stream loses 15 % of its tokens in spans of 3 on average; the encoder reads the rest
with a sentinel in place of each span, the decoder writes sentinels and spans:

    text      a b c d e f g h <eod>
    encoder   a b <s_0> e f g <s_1>
    decoder   <s> <s_0> c d <s_1> h <eod>          (its inputs)
    labels    <s_0> c d <s_1> h <eod> <s_2>

Sources: Raffel et al., "Exploring the Limits of Transfer Learning", JMLR 2020, section 3.1.4;
google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py (`random_spans_helper`,
`random_spans_noise_mask`); TsinghuaAI/CPM-2-Pretrain, src/tools/preprocess_data_enc_dec.py and
src/data/enc_dec_dataset.py. CPM-2 corrupts whole documents and cuts samples from the result; here the
stretch is cut first and then corrupted, as T5 does, so that every epoch masks anew. `<eod>` ends each
document in the stream, and is a token like others: it can be masked.
"""

from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fpm_cli.corpus.manifest import Split
from fpm_cli.errors import UsageError
from fpm_cli.objectives.base import Ids, Sample, SampleCorpus, Samples, special_id

NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3


class Lengths(NamedTuple):
    """What corrupting a stretch of `raw` tokens gives; the same for each stretch of that length."""

    raw: int
    num_noise: int
    num_spans: int

    @property
    def encoder(self) -> int:
        """Tokens that stay, and a sentinel a span."""
        return self.raw - self.num_noise + self.num_spans

    @property
    def decoder(self) -> int:
        """Masked tokens, a sentinel a span, and the final sentinel."""
        return self.num_noise + self.num_spans + 1


def lengths_of(raw: int) -> Lengths:
    """T5's numbers of noise tokens and spans in a stretch of `raw` >= 2 tokens."""
    num_noise = min(max(round(raw * NOISE_DENSITY), 1), raw - 1)
    num_spans = max(round(num_noise / MEAN_SPAN_LENGTH), 1)
    return Lengths(raw, num_noise, num_spans)


def longest_stretch(encoder_length: int, decoder_length: int, num_sentinels: int) -> Lengths:
    """The longest stretch whose inputs fit the encoder and whose target fits the decoder.

    Raises:
        UsageError: not even 2 tokens fit, or the stretch has more spans than there are sentinels.
    """
    shortest = longest = lengths_of(2)
    if shortest.encoder > encoder_length or shortest.decoder > decoder_length:
        raise UsageError(
            f"span corruption takes train.sequence_length >= {shortest.encoder} and "
            f"train.decoder_length >= {shortest.decoder}; they are {encoder_length} and {decoder_length}"
        )
    for raw in count(3):
        lengths = lengths_of(raw)
        if lengths.encoder > encoder_length or lengths.decoder > decoder_length:
            break
        longest = lengths
    if longest.num_spans + 1 > num_sentinels:
        raise UsageError(
            f"train.sequence_length {encoder_length} and train.decoder_length {decoder_length} take "
            f"{longest.num_spans + 1} sentinels, and the tokenizer has {num_sentinels}: shorten either"
        )
    return longest


def random_segments(total: int, num_segments: int, random: np.random.Generator) -> Ids:
    """Lengths (num_segments,) of non-empty segments of `total` tokens, each such division as likely."""
    cuts = np.zeros(num_segments + 1, dtype=np.int64)
    cuts[1:-1] = random.permutation(total - 1)[: num_segments - 1] + 1
    cuts[-1] = total
    cuts.sort()
    return np.diff(cuts)


class SpanSamples(Samples):
    """`encoder_tokens` int64, `encoder_mask` bool (s_e,); `decoder_tokens`, `labels` int64, `loss_mask`
    float32 (s_d,); each padded at its end.
    """

    def __init__(
        self, corpus: SampleCorpus, split: Split, *, encoder_length: int, decoder_length: int, seed: int
    ) -> None:
        """Raises UsageError where no stretch fits the lengths or the split is shorter than one."""
        tokenizer, data = corpus.tokenizer, corpus.split(split)
        self._tokens, self._encoder_length, self._decoder_length = data.tokens, encoder_length, decoder_length
        self._sentinels: Ids = np.array(tokenizer.special.sentinels, dtype=np.int64)
        self._bos, self._pad = special_id(tokenizer, "bos"), special_id(tokenizer, "pad")
        self._lengths = longest_stretch(encoder_length, decoder_length, len(self._sentinels))
        raw = self._lengths.raw
        shortest = f"{raw} tokens, and it has {data.num_tokens}; a smaller train.sequence_length takes fewer"
        super().__init__(data.num_tokens // raw, seed, split, shortest)

    def build(self, position: int, index: int) -> Sample:
        """Corrupt the stretch at `position`."""
        raw, num_noise, num_spans = self._lengths
        stretch = self._tokens[position * raw : (position + 1) * raw].astype(np.int64)
        random = self.random(index)
        # Kept text first, noise last, in turn.
        runs = np.empty(2 * num_spans, dtype=np.int64)
        runs[0::2] = random_segments(raw - num_noise, num_spans, random)
        runs[1::2] = random_segments(num_noise, num_spans, random)
        starts = np.cumsum(runs) - runs
        is_noise = np.repeat(np.arange(2 * num_spans) % 2 == 1, runs)  # (raw,)
        inputs = self._with_sentinels(stretch, ~is_noise, starts[1::2])
        target = self._with_sentinels(stretch, is_noise, starts[0::2])
        return self._padded(inputs, target)

    def _with_sentinels(self, stretch: Ids, kept: npt.NDArray[np.bool_], starts: Ids) -> Ids:
        """The tokens that are kept, and a sentinel for each other run, which begin at `starts`."""
        tokens = stretch.copy()
        tokens[starts] = self._sentinels[: len(starts)]
        kept[starts] = True
        return tokens[kept]

    def _padded(self, inputs: Ids, target: Ids) -> Sample:
        n, m = len(inputs), len(target) + 1  # the decoder reads <s> and the target, and ends on a sentinel
        encoder_tokens = np.full(self._encoder_length, self._pad, dtype=np.int64)
        decoder_tokens = np.full(self._decoder_length, self._pad, dtype=np.int64)
        labels = decoder_tokens.copy()
        encoder_tokens[:n] = inputs
        decoder_tokens[0], decoder_tokens[1:m] = self._bos, target
        labels[: m - 1], labels[m - 1] = target, self._sentinels[self._lengths.num_spans]
        return {
            "encoder_tokens": encoder_tokens,
            "encoder_mask": np.arange(self._encoder_length) < n,
            "decoder_tokens": decoder_tokens,
            "labels": labels,
            "loss_mask": (np.arange(self._decoder_length) < m).astype(np.float32),
        }
