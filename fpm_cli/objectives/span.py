"""The encoder-decoder objective: T5's span corruption with CPM-2's tokens.

In a segment of the stream 15 % of the tokens are noise, in spans of 3 on average. The encoder's input is the
rest with a sentinel in place of each span, and the target is each sentinel followed by its span:

    text      a b c d e f g h <eod>
    encoder   a b <s_0> e f g <s_1>
    decoder   <s> <s_0> c d <s_1> h <eod>
    labels    <s_0> c d <s_1> h <eod> <s_2>

Sources: Raffel et al., "Exploring the Limits of Transfer Learning", JMLR 2020, section 3.1.4;
google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py (`random_spans_helper`,
`random_spans_noise_mask`); TsinghuaAI/CPM-2-Pretrain, src/tools/preprocess_data_enc_dec.py and
src/data/enc_dec_dataset.py. CPM-2 corrupts whole documents and cuts samples from the result; here the
segment is cut first and then corrupted, as in T5, so that every epoch has new noise. `<eod>` ends each
document in the stream, and can be masked like any other token.
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


class CorruptedLengths(NamedTuple):
    """The lengths after corruption of a segment of `num_raw` tokens; they do not depend on its content."""

    num_raw: int
    num_noise: int
    num_spans: int

    @property
    def encoder(self) -> int:
        """Tokens that are kept, and a sentinel per span."""
        return self.num_raw - self.num_noise + self.num_spans

    @property
    def decoder(self) -> int:
        """Noise tokens, a sentinel per span, and the final sentinel."""
        return self.num_noise + self.num_spans + 1


def corrupted_lengths(num_raw: int) -> CorruptedLengths:
    """T5's numbers of noise tokens and spans in a segment of `num_raw` >= 2 tokens."""
    num_noise = min(max(round(num_raw * NOISE_DENSITY), 1), num_raw - 1)
    num_spans = max(round(num_noise / MEAN_SPAN_LENGTH), 1)
    return CorruptedLengths(num_raw, num_noise, num_spans)


def longest_segment(encoder_length: int, decoder_length: int, num_sentinels: int) -> CorruptedLengths:
    """The longest segment whose input fits the encoder and whose target fits the decoder.

    Raises:
        UsageError: not even 2 tokens fit, or the segment has more spans than there are sentinels.
    """
    shortest = longest = corrupted_lengths(2)
    if shortest.encoder > encoder_length or shortest.decoder > decoder_length:
        raise UsageError(
            f"span corruption takes train.sequence_length >= {shortest.encoder} and "
            f"train.decoder_length >= {shortest.decoder}; they are {encoder_length} and {decoder_length}"
        )
    for num_raw in count(3):
        lengths = corrupted_lengths(num_raw)
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
    """Lengths (num_segments,) of non-empty segments of `total` tokens, all divisions equally likely."""
    cuts = np.zeros(num_segments + 1, dtype=np.int64)
    cuts[1:-1] = random.permutation(total - 1)[: num_segments - 1] + 1
    cuts[-1] = total
    cuts.sort()
    return np.diff(cuts)


class SpanSamples(Samples):
    """`encoder_tokens` int64, `encoder_mask` bool (s_e,); `decoder_tokens`, `labels` int64, `loss_mask`
    float32 (s_d,); each padded at the end.
    """

    def __init__(
        self, corpus: SampleCorpus, split: Split, *, encoder_length: int, decoder_length: int, seed: int
    ) -> None:
        """Raises UsageError where no segment fits the lengths, or the split is shorter than one."""
        tokenizer, data = corpus.tokenizer, corpus.split(split)
        self._tokens, self._encoder_length, self._decoder_length = data.tokens, encoder_length, decoder_length
        self._sentinels: Ids = np.array(tokenizer.special.sentinels, dtype=np.int64)
        self._bos, self._pad = special_id(tokenizer, "bos"), special_id(tokenizer, "pad")
        self._lengths = longest_segment(encoder_length, decoder_length, len(self._sentinels))
        num_raw = self._lengths.num_raw
        super().__init__(
            data.num_tokens // num_raw,
            seed,
            split,
            f"{num_raw} tokens, and it has {data.num_tokens}; a smaller train.sequence_length takes fewer",
        )

    def build(self, position: int, index: int) -> Sample:
        """Corrupt the segment at `position`."""
        num_raw, num_noise, num_spans = self._lengths
        segment = self._tokens[position * num_raw : (position + 1) * num_raw].astype(np.int64)
        random = self.random(index)
        # Runs alternate: the first is kept, the last is noise.
        runs = np.empty(2 * num_spans, dtype=np.int64)
        runs[0::2] = random_segments(num_raw - num_noise, num_spans, random)
        runs[1::2] = random_segments(num_noise, num_spans, random)
        starts = np.cumsum(runs) - runs
        is_noise = np.repeat(np.arange(2 * num_spans) % 2 == 1, runs)  # (num_raw,)
        inputs = self._with_sentinels(segment, ~is_noise, starts[1::2])
        target = self._with_sentinels(segment, is_noise, starts[0::2])
        return self._padded(inputs, target)

    def _with_sentinels(self, segment: Ids, kept: npt.NDArray[np.bool_], starts: Ids) -> Ids:
        """The tokens that are kept, with a sentinel in place of each run that begins at one of `starts`."""
        tokens = segment.copy()
        tokens[starts] = self._sentinels[: len(starts)]
        kept[starts] = True
        return tokens[kept]

    def _padded(self, inputs: Ids, target: Ids) -> Sample:
        n, m = (
            len(inputs),
            len(target) + 1,
        )  # decoder input: <s>, target; labels: target, sentinel
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
