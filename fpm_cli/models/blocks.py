"""What the three families share besides attention: the MLP, the residual connection, a layer, a stack.

Shapes: B batch, S sequence, H hidden size, V vocabulary; a packed stream has (T, H) for (B, S, H).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.attention import AttentionContext, CrossAttention, SelfAttention
from fpm_cli.models.layer_config import LayerConfig, tanh_gelu
from fpm_cli.ops.layer_branches import (
    CROSS_ATTENTION,
    MLP_BRANCH,
    SELF_ATTENTION,
    STREAMS_PER_LAYER,
    LayerStructure,
)
from fpm_cli.ops.selection import is_compiled
from fpm_cli.ops.transformer_layer import transformer_layer

ParameterSlot = tuple[nn.Module, str]  # a module and the name of one of its parameters


class MLP(nn.Module):
    """down(activation(up x)), or down(activation(gate x) * up x) where the family's MLP is gated."""

    def __init__(self, config: ModelConfig, layer_config: LayerConfig):
        super().__init__()
        h, f, bias = config.hidden_size, config.ffn_size, layer_config.use_bias
        self.gate = nn.Linear(h, f, bias=bias) if layer_config.gated_mlp else None
        self.up = nn.Linear(h, f, bias=bias)
        self.down = nn.Linear(f, h, bias=bias)
        self.activation = layer_config.activation

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, H) -> (B, S, H)."""
        if self.gate is None:
            inner = self.activation(self.up(x))
        else:
            inner = self.activation(self.gate(x)) * self.up(x)
        output: Tensor = self.down(inner)
        return output


def make_norm(config: ModelConfig, layer_config: LayerConfig) -> nn.Module:
    """The family's LayerNorm or RMSNorm over the hidden size."""
    kind = nn.RMSNorm if layer_config.rms_norm else nn.LayerNorm
    return kind(config.hidden_size, eps=config.norm_epsilon)


class Residual(nn.Module):
    """A branch (attention or MLP) with its norm, its dropout and the skip connection around it.

    pre:       x + branch(norm(x))
    post:      norm(x + branch(x))
    deepnorm:  norm(alpha x + branch(x))   (Wang et al., arXiv 2203.00555)
    """

    def __init__(self, config: ModelConfig, layer_config: LayerConfig, branch: nn.Module):
        super().__init__()
        self.branch = branch
        self.norm = make_norm(config, layer_config)
        self.pre_norm = config.norm_placement == "pre"
        self.alpha = layer_config.deepnorm_alpha if config.norm_placement == "deepnorm" else 1.0
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: AttentionContext | None = None) -> Tensor:
        """x (B, S, H) -> (B, S, H); an attention branch takes a `context`, an MLP none."""
        skip, inputs = (x, self.norm(x)) if self.pre_norm else (self.alpha * x, x)
        update = self.branch(inputs) if context is None else self.branch(inputs, context)
        output: Tensor = skip + self.dropout(update)
        return output if self.pre_norm else self.norm(output)


class Layer(nn.Module):
    """Self-attention, then in a decoder with an encoder cross-attention, then the MLP.

    `recompute_mlp` is selective recomputation. Korthikanti et al. 2022 (arXiv:2205.05198, section 5)
    recompute the attention scores; torch's fused kernels do so by themselves, and what is largest
    after that is the inside of the MLP: half of what a layer keeps, for a ninth more FLOPs at most.
    """

    def __init__(self, config: ModelConfig, layer_config: LayerConfig, index: int = 0):
        """`index` in the stack, which keeps the dropout of layers apart."""
        super().__init__()
        self.attention = Residual(config, layer_config, SelfAttention(config, layer_config))
        self.cross_attention = (
            Residual(config, layer_config, CrossAttention(config, layer_config))
            if layer_config.cross_attention
            else None
        )
        self.mlp = Residual(config, layer_config, MLP(config, layer_config))
        self.recompute_mlp = False
        self._structure = _structure(config, layer_config, index)
        self._parameter_slots = [
            slot
            for residual in (self.attention, self.cross_attention, self.mlp)
            if residual is not None
            for slot in _parameter_slots(residual)
        ]

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """x (B, S, H) -> (B, S, H)."""
        if context.compiled is not None:
            return transformer_layer(
                self._structure,
                context.compiled,
                x,
                context.memory,
                context.bias,
                [slot and slot[0]._parameters.get(slot[1]) for slot in self._parameter_slots],
                recompute_mlp=self.recompute_mlp,
            )
        x = self.attention(x, context)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context)
        if self.recompute_mlp and torch.is_grad_enabled():
            return checkpoint(self.mlp, x, use_reentrant=False)  # type: ignore[no-any-return]
        output: Tensor = self.mlp(x)
        return output


class Stack(nn.Module):
    """`num_layers` layers and, for pre-norm, the final norm; `recompute`: recompute layers in backward."""

    def __init__(self, config: ModelConfig, layer_config: LayerConfig, num_layers: int):
        super().__init__()
        self.layer_config = layer_config
        self.layers = nn.ModuleList(Layer(config, layer_config, index) for index in range(num_layers))
        pre_norm = config.norm_placement == "pre"
        self.final_norm = make_norm(config, layer_config) if pre_norm else nn.Identity()
        self.dropout, self.head_size = config.dropout, config.head_size
        self.recompute = False

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """x (B, S, H) -> (B, S, H); every layer reads the same `context`."""
        if context.cache is None and is_compiled(x, width=x.shape[-1], head_size=self.head_size):
            context = context.for_compiled_layers(x, self.dropout if self.training else 0.0)
        elif context.packing is None:
            context = context.with_mask(x.shape[1])
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, context, use_reentrant=False)
            else:
                x = layer(x, context)
        output: Tensor = self.final_norm(x)
        return output


def _structure(config: ModelConfig, layer_config: LayerConfig, index: int) -> LayerStructure:
    return LayerStructure(
        branches=(SELF_ATTENTION, *([CROSS_ATTENTION] if layer_config.cross_attention else []), MLP_BRANCH),
        num_heads=config.num_heads,
        softmax_scale=layer_config.softmax_scale,
        tanh_gelu=layer_config.activation is tanh_gelu,
        pre_norm=config.norm_placement == "pre",
        alpha=layer_config.deepnorm_alpha if config.norm_placement == "deepnorm" else 1.0,
        epsilon=config.norm_epsilon,
        rms_norm=layer_config.rms_norm,
        first_stream=index * STREAMS_PER_LAYER,
    )


def _parameter_slots(residual: Residual) -> list[ParameterSlot | None]:
    """Where the parameters of a branch are, in the order of `transformer_layer`.

    Modules and names instead of parameters, which DeepSpeed and `load_state_dict(assign=True)` replace.
    """
    branch = residual.branch
    slots: list[ParameterSlot | None] = [(residual.norm, "weight"), (residual.norm, "bias")]
    linears: list[nn.Linear]
    if isinstance(branch, SelfAttention):
        linears = [branch.query_key_value, branch.out]
    elif isinstance(branch, CrossAttention):
        linears = [branch.query, branch.key_value, branch.out]
    else:
        assert isinstance(branch, MLP)
        slots.append(None if branch.gate is None else (branch.gate, "weight"))
        linears = [branch.up, branch.down]
    return slots + [(linear, name) for linear in linears for name in ("weight", "bias")]


def summed_cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy in float32 and nats, summed where `mask` is 1; () float32.

    A sum, not a mean: the engine divides by the number of predictions of the whole global batch, so
    that the loss does not depend on how the batch is split over micro-batches and ranks.

    Args:
        logits: (..., V).
        labels: (...) int64.
        mask: (...) float32.
    """
    each = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="none")
    return (each * mask.flatten()).sum()
