"""Bytes that a layer of compiled operators saves (`fpm_cli/ops/transformer_layer.py`), on any device.

Each branch saves the residual stream, the statistics of its norm, its input, and the inputs of its matrix
products. No mask is saved: dropout is a function of its seed, and attention recomputes its scores from one
number per query.
"""

from dataclasses import dataclass

from fpm_cli.accounting.activations import FLOAT32, SavedActivations

STATISTICS = 2 * FLOAT32  # of each row's norm


@dataclass(frozen=True)
class CompiledActivations(SavedActivations):
    """`SavedActivations` of a model whose layers are one compiled operator each."""

    def total(self) -> int:
        """Bytes saved by the forward pass of one micro-batch, under `engine.recompute`."""
        recompute = self.config.engine.recompute
        if recompute == "full":
            return self._inputs() + self._relative_bias() + self.outside()
        saved = sum(self.layers()) + self._relative_bias() + self.outside()
        return saved - (sum(self.mlps()) if recompute == "selective" else 0)

    def layers(self) -> list[int]:
        """Bytes saved inside each layer when nothing is recomputed, in the order of the layers."""
        branch = self._positions_bytes()
        return [inside + mlp_branch for inside, mlp_branch in zip(super().layers(), branch, strict=True)]

    def outside(self) -> int:
        """As of PyTorch's modules, without the masks of the encoder-decoder's relative position bias."""
        if self.config.family != "encdec":
            return super().outside()
        train = self.config.train
        return super().outside() - train.decoder_length**2 - self.micro_batch * train.sequence_length

    def _positions_bytes(self) -> list[int]:
        """Per layer: residual stream and statistics of the MLP's norm, with post-norm also its input."""
        model, train = self.config.model, self.config.train
        streams = 1 if model.norm_placement == "pre" else 2
        position = streams * model.hidden_size * self.element_bytes + STATISTICS
        lengths = [train.sequence_length] * model.num_layers
        if self.config.family == "encdec":
            half = model.num_layers // 2
            lengths = [train.sequence_length] * half + [train.decoder_length] * half
        return [self.micro_batch * length * position for length in lengths]

    def _attention(self, queries: int, keys: int, *, cross: bool = False) -> int:
        """Bytes of residual stream, statistics, input, projections, output and log-sum-exp of one branch."""
        model, b, e = self.config.model, self.micro_batch, self.element_bytes
        projected = (queries + 2 * keys + queries) * model.attention_size
        streams = 2 * queries * model.hidden_size
        per_query = queries * (STATISTICS + model.num_heads * FLOAT32)
        return b * ((streams + projected) * e + per_query)

    def _mlp(self, length: int) -> int:
        """Bytes that selective recomputation saves: the activation's input and output, and with pre-norm the
        MLP's own input, which is recomputed from the residual stream.
        """
        model = self.config.model
        inner = (3 if self.config.family == "encdec" else 2) * model.ffn_size
        own_input = model.hidden_size if model.norm_placement == "pre" else 0
        return self.micro_batch * length * (own_input + inner) * self.element_bytes

    def _relative_bias(self) -> int:
        """Bytes of the score bias of both stacks, contiguous and once for all layers."""
        if self.config.family != "encdec":
            return 0
        train, heads = self.config.train, self.config.model.num_heads
        positions = train.sequence_length**2 + train.decoder_length**2
        return heads * positions * self.element_bytes
