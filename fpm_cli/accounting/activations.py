"""Bytes that autograd saves between forward and backward pass, from the structure of `fpm_cli/models`.

The method is that of Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1), applied to the tensors that
these modules and PyTorch's kernels save. Kernels differ by device:

- dropout saves its mask: on a CPU as many bytes as the element has, on a GPU one byte per element;
- RMSNorm consists of smaller operators on a CPU and also saves its normalised input;
- a fused attention kernel saves query, key, value, output and one number per query. The CPU's kernel supports
  neither dropout nor a learned bias; without it the score matrix is saved, with dropout three times (weights,
  mask, product).
"""

from dataclasses import dataclass

from fpm_cli.accounting.flops import masked_positions
from fpm_cli.config.schema import RunConfig

FLOAT32 = 4
INT64 = 8


@dataclass(frozen=True)
class SavedActivations:
    """Bytes saved by one micro-batch of a run: `layers` inside each layer, `outside` everywhere else."""

    config: RunConfig
    element_bytes: int
    micro_batch: int
    cpu: bool

    def total(self) -> int:
        """Bytes saved by the forward pass of one micro-batch, under `engine.recompute`."""
        recompute = self.config.engine.recompute
        saved = 0 if recompute == "full" else sum(self.layers())
        if recompute == "selective":
            saved -= sum(self.mlps())
        if recompute != "none":
            saved += self._inputs()
        return saved + self._relative_bias() + self.outside()

    def recomputed(self) -> int:
        """The most that recomputation adds at any moment: the inside of one layer, or of one MLP."""
        recompute = self.config.engine.recompute
        if recompute == "none":
            return 0
        return max(self.mlps() if recompute == "selective" else self.layers())

    def layers(self) -> list[int]:
        """Bytes saved inside each layer when nothing is recomputed, in the order of the layers."""
        train, count = self.config.train, self.config.model.num_layers
        s, s_d = train.sequence_length, train.decoder_length
        if self.config.family != "encdec":
            attentions = [self._attention(s, s)] * count
        else:
            decoder = self._attention(s_d, s_d) + self._attention(s_d, s, cross=True)
            attentions = [self._attention(s, s)] * (count // 2) + [decoder] * (count // 2)
        return [attention + mlp for attention, mlp in zip(attentions, self.mlps(), strict=True)]

    def mlps(self) -> list[int]:
        """The part of `layers` that is inside the MLPs."""
        train, count = self.config.train, self.config.model.num_layers
        if self.config.family != "encdec":
            return [self._mlp(train.sequence_length)] * count
        encoder, decoder = self._mlp(train.sequence_length), self._mlp(train.decoder_length)
        return [encoder] * (count // 2) + [decoder] * (count // 2)

    def outside(self) -> int:
        """Bytes of ids, masks, embedding dropout, norms outside the layers, heads and log-probabilities."""
        model, train = self.config.model, self.config.train
        h, b, e = model.hidden_size, self.micro_batch, self.element_bytes
        s, s_d = train.sequence_length, train.decoder_length
        ids = b * (s + s_d) * INT64 + s * INT64
        dropout = self._dropout(s * h) + self._dropout(s_d * h)
        norms = self._norm(s) + (self._norm(s_d) if s_d else 0)
        if self.config.family == "encdec":
            norms = norms if model.norm_placement == "pre" else 0
            ends = b * (s + s_d) * h * e  # the encoder's output for all cross-attentions; the head's input
            buckets = (s * s + s_d * s_d) * INT64 + s_d * s_d + b * s
            return ids + dropout + norms + ends + buckets + self._cross_entropy(b * s_d)
        ends = b * s * h * e
        if self.config.family == "gpt":
            norms = norms if model.norm_placement == "pre" else 0
            return ids + dropout + norms + ends + self._cross_entropy(b * s)
        predicted = b * masked_positions(train)
        words = predicted * (4 * h * e + 2 * FLOAT32)  # selected positions, dense, GELU, norm
        pooled = b * (h * e + 2 * FLOAT32 + INT64 + FLOAT32)
        types_and_masks = b * s * (INT64 + 2)
        return (
            ids + types_and_masks + dropout + norms + ends + words + pooled + self._cross_entropy(predicted)
        )

    def _inputs(self) -> int:
        """Bytes of the tensors that recomputation starts from: the input of each layer, or of each MLP."""
        train, layers = self.config.train, self.config.model.num_layers
        lengths = layers * train.sequence_length
        if self.config.family == "encdec":
            lengths = layers // 2 * (train.sequence_length + train.decoder_length)
        return self.micro_batch * lengths * self.config.model.hidden_size * self.element_bytes

    def _attention(self, queries: int, keys: int, *, cross: bool = False) -> int:
        """Bytes of norm, projections, attention and residual dropout of one branch."""
        model, b, e = self.config.model, self.micro_batch, self.element_bytes
        h, a = model.hidden_size, model.attention_size
        projected = (queries + 2 * keys + queries) * a  # query, key and value, output
        saved = self._norm(queries) + b * (queries * h + projected) * e + self._dropout(queries * h)
        if self._fused(cross=cross):
            masks = b * keys * e if self.config.family == "bert" or cross else 0
            return saved + b * queries * model.num_heads * FLOAT32 + masks
        if min(b, model.num_heads) == 1:  # the values remain a view, which keeps its whole base tensor
            saved += b * keys * (1 if cross else 2) * a * e
        matrices = 3 if model.dropout else 1
        return saved + matrices * b * model.num_heads * queries * keys * e

    def _fused(self, *, cross: bool) -> bool:
        learned_bias = self.config.family == "encdec" and not cross
        return not self.cpu or not (self.config.model.dropout or learned_bias)

    def _relative_bias(self) -> int:
        """Bytes of the score bias of both stacks, saved for recomputation or a fused kernel."""
        if self.config.family != "encdec" or (self.cpu and self.config.engine.recompute != "full"):
            return 0
        train, heads = self.config.train, self.config.model.num_heads
        encoder = self.micro_batch * heads * train.sequence_length**2
        return (encoder + heads * train.decoder_length**2) * self.element_bytes

    def _mlp(self, length: int) -> int:
        """Bytes of norm, projections, activation and residual dropout."""
        model, b, e = self.config.model, self.micro_batch, self.element_bytes
        # GELU's input and output; gated: gate, its GELU, up projection and their product
        inner = (4 if self.config.family == "encdec" else 2) * model.ffn_size
        h = model.hidden_size
        return self._norm(length) + b * length * (h + inner) * e + self._dropout(length * h)

    def _norm(self, length: int) -> int:
        """Bytes of a norm: its input and, in float32, the statistics of each position."""
        positions, h = self.micro_batch * length, self.config.model.hidden_size
        if self.config.family != "encdec":
            return positions * (h * self.element_bytes + 2 * FLOAT32)
        copies = 2 if self.cpu else 1
        return positions * (copies * h * self.element_bytes + FLOAT32)

    def _dropout(self, elements: int) -> int:
        mask_bytes = self.element_bytes if self.cpu else 1
        return self.micro_batch * elements * mask_bytes if self.config.model.dropout else 0

    def _cross_entropy(self, positions: int) -> int:
        """Bytes of the log-probabilities in float32, and of the label and the mask of each position."""
        return positions * (self.config.model.vocab_size * FLOAT32 + INT64 + FLOAT32)
