"""What the three families share: attention, the two MLPs, the residual connection, a layer, a stack.

Shapes: B batch, S sequence (Q queries, K keys), H hidden size, N heads, D head size; T tokens of a packed
stream, which has no batch dimension: (T, H) stands for (B, S, H) where a `Packing` stands for the bias.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.cache import Cache
from fpm_cli.ops.attention import Packing, attention, packed_attention


@dataclass(frozen=True)
class Style:
    """Where the families differ inside a layer."""

    bias: bool  # biases on every linear layer
    gated: bool  # gated MLP with three matrices instead of two
    rms_norm: bool  # RMSNorm (weight only) instead of LayerNorm
    activation: Callable[[Tensor], Tensor]
    score_scale: float
    alpha: float  # DeepNorm's weight of the skip connection (arXiv 2203.00555, table 2)
    beta: float  # DeepNorm's gain of values, outputs and MLP at initialisation
    cross_attention: bool = False


class Attention(nn.Module):
    """Multi-head attention over the sequence itself, or over `memory` (B, K, H) if built with `cross`."""

    def __init__(self, config: ModelConfig, style: Style, *, cross: bool = False):
        super().__init__()
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.scale, self.dropout = style.score_scale, config.dropout
        h, a = config.hidden_size, config.attention_size
        self.attention_size = a
        if cross:
            self.query = nn.Linear(h, a, bias=style.bias)
            self.key_value = nn.Linear(h, 2 * a, bias=style.bias)
        else:
            self.query_key_value = nn.Linear(h, 3 * a, bias=style.bias)
        self.cross = cross
        self.out = nn.Linear(a, h, bias=style.bias)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | Packing | None,
        causal: bool,
        memory: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """x (B, Q, H) -> (B, Q, H), or packed; with a `cache`, x follows what was read before."""
        dropout = self.dropout if self.training else 0.0
        if isinstance(bias, Packing):
            parts = self.query_key_value(x).unflatten(-1, (3, self.num_heads, self.head_size))
            mixed = packed_attention(parts, bias, scale=self.scale, causal=causal, dropout=dropout)
            return self.out(mixed.flatten(1))  # type: ignore[no-any-return]
        if self.cross:
            assert memory is not None
            query = self._heads(self.query(x))
            key, value = cache.once(self, lambda: self._read(memory)) if cache else self._read(memory)
        else:
            query, key, value = map(self._heads, self.query_key_value(x).chunk(3, dim=-1))
            if cache:
                key, value = cache.extend(self, key, value)
        mixed = attention(
            query,
            key,
            value,
            scale=self.scale,
            bias=bias,
            causal=causal,
            dropout=dropout,
        )
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return self._heads(key), self._heads(value)

    def _heads(self, part: Tensor) -> Tensor:
        """(B, S, N*D) -> (B, N, S, D)."""
        return part.view(*part.shape[:2], self.num_heads, self.head_size).transpose(1, 2)


class MLP(nn.Module):
    """down(activation(up x)), or down(activation(gate x) * up x) where the style is gated."""

    def __init__(self, config: ModelConfig, style: Style):
        super().__init__()
        h, f = config.hidden_size, config.ffn_size
        self.gate = nn.Linear(h, f, bias=style.bias) if style.gated else None
        self.up = nn.Linear(h, f, bias=style.bias)
        self.down = nn.Linear(f, h, bias=style.bias)
        self.activation = style.activation

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, H) -> (B, S, H)."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))  # type: ignore[no-any-return]
        return self.down(self.activation(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


def make_norm(config: ModelConfig, style: Style) -> nn.Module:
    """LayerNorm or RMSNorm over the hidden size, as the family has it."""
    kind = nn.RMSNorm if style.rms_norm else nn.LayerNorm
    return kind(config.hidden_size, eps=config.norm_epsilon)


class Residual(nn.Module):
    """A branch around which the signal skips.

    pre:       x + branch(norm(x))
    post:      norm(x + branch(x))
    deepnorm:  norm(alpha x + branch(x))   (Wang et al., arXiv 2203.00555)
    """

    def __init__(self, config: ModelConfig, style: Style, branch: nn.Module):
        super().__init__()
        self.branch = branch
        self.norm = make_norm(config, style)
        self.pre = config.norm_placement == "pre"
        self.alpha = style.alpha if config.norm_placement == "deepnorm" else 1.0
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, *arguments: object) -> Tensor:
        """x (B, S, H) -> (B, S, H); `arguments` go to the branch."""
        if self.pre:
            return x + self.dropout(self.branch(self.norm(x), *arguments))  # type: ignore[no-any-return]
        return self.norm(self.alpha * x + self.dropout(self.branch(x, *arguments)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Self-attention, then attention over the encoder's output in a decoder layer, then the MLP.

    `recompute_mlp` is selective recomputation. Korthikanti et al. 2022 (arXiv:2205.05198, section 5)
    recompute the attention scores; torch's fused kernels do so by themselves, and what is largest
    after that is the inside of the MLP: half of what a layer keeps, for a ninth more FLOPs at most.
    """

    def __init__(self, config: ModelConfig, style: Style):
        super().__init__()
        self.attention = Residual(config, style, Attention(config, style))
        self.cross_attention = (
            Residual(config, style, Attention(config, style, cross=True)) if style.cross_attention else None
        )
        self.mlp = Residual(config, style, MLP(config, style))
        self.recompute_mlp = False

    def forward(
        self,
        x: Tensor,
        bias: Tensor | Packing | None,
        causal: bool,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """x (B, S, H) -> (B, S, H)."""
        x = self.attention(x, bias, causal, None, cache)
        if self.cross_attention is not None:
            x = self.cross_attention(x, memory_bias, False, memory, cache)
        if self.recompute_mlp and torch.is_grad_enabled():
            return checkpoint(self.mlp, x, use_reentrant=False)  # type: ignore[no-any-return]
        return self.mlp(x)  # type: ignore[no-any-return]


class Stack(nn.Module):
    """`num_layers` layers and, for pre-norm, the final norm; recomputes each layer's inside if asked."""

    def __init__(self, config: ModelConfig, style: Style, num_layers: int):
        super().__init__()
        self.style = style
        self.layers = nn.ModuleList(Layer(config, style) for _ in range(num_layers))
        self.final_norm = make_norm(config, style) if config.norm_placement == "pre" else nn.Identity()
        self.recompute = False

    def forward(self, x: Tensor, *arguments: object) -> Tensor:
        """x (B, S, H) -> (B, S, H); `arguments` as for `Layer`."""
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, *arguments, use_reentrant=False)
            else:
                x = layer(x, *arguments)
        return self.final_norm(x)  # type: ignore[no-any-return]


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 and T5 v1.1 have it."""
    return F.gelu(x, approximate="tanh")


def summed_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy in float32 and nats, summed where `mask` is 1; () float32.

    A sum, not a mean: the engine divides by the number of predictions of the whole global batch, so
    that the loss does not depend on how the batch is split over micro-batches and ranks.

    Args:
        logits: (..., V); `labels` (...) int64; `mask` (...) float32.
    """
    each = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="none")
    return (each * mask.flatten()).sum()
