"""Multi-head attention of a layer, and the context that it reads besides the hidden states.

Shapes: B batch, S sequence (Q queries, K keys), H hidden size, N heads, D head size; T tokens of a packed
stream, which has no batch dimension: (T, H) stands for (B, S, H) where the context has a `packing`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.kv_cache import KVCache
from fpm_cli.models.layer_config import LayerConfig
from fpm_cli.ops.attention import Packing, attention, packed_attention
from fpm_cli.ops.layer_branches import LayerInputs


@dataclass(frozen=True)
class AttentionContext:
    """What the attention of every layer of a stack reads; a field that is None restricts nothing."""

    causal: bool = False  # a query attends to no later key
    key_mask: Tensor | None = None  # (B, K) bool, True: a key that may be attended to
    documents: Tensor | None = None  # (B, S) int64: a query attends to keys of its own document only
    bias: Tensor | None = None  # (1, N, Q, K) float, added to the scores
    packing: Packing | None = None  # the hidden states are a packed stream of these sequences
    memory: Tensor | None = None  # (B, K, H), the encoder's output, read by cross-attention
    memory_mask: Tensor | None = None  # (B, K) bool, as `key_mask`, over the memory
    cache: KVCache | None = None  # the hidden states follow the positions that it has read
    mask: Tensor | None = None  # all of the above as one mask, see `with_mask`
    compiled: LayerInputs | None = None  # all of the above for the compiled layer, see `for_compiled_layers`

    def with_mask(self, num_queries: int) -> "AttentionContext":
        """This context with `mask` set, so that it is computed once for all layers of a stack.

        The mask is None where `causal` alone says everything; else it is broadcastable to (B, N, Q, K): bool
        (True: attend), or float and added to the scores where the context has a bias.
        """
        return replace(self, mask=self._mask(num_queries))

    def for_compiled_layers(self, x: Tensor, dropout: float) -> "AttentionContext":
        """This context with `compiled` set: the layers of hidden states like `x` run as one operator each.

        The seed of the dropout comes from torch's generator, so that it follows from the seed of the step.
        """
        cu_seqlens = None
        if self.packing is not None:
            cu_seqlens = self.packing.offsets(x.device).int()
        inputs = LayerInputs(
            shape=tuple(x.shape[:-1]),
            causal=self.causal,
            key_mask=_contiguous(self.key_mask),
            documents=_contiguous(self.documents),
            cu_seqlens=cu_seqlens,
            memory_mask=_contiguous(self.memory_mask),
            dropout=dropout,
            seed=int(torch.randint(2**63 - 1, ())) if dropout else 0,
        )
        return replace(self, bias=_contiguous(self.bias), memory=_contiguous(self.memory), compiled=inputs)

    def _mask(self, num_queries: int) -> Tensor | None:
        if self.bias is not None:
            mask = self.bias
            if self.causal:
                keys = torch.arange(mask.shape[-1], device=mask.device)
                mask = mask.masked_fill(keys > keys[-num_queries:, None], float("-inf"))
            if self.key_mask is not None:
                mask = mask.masked_fill(~self.key_mask[:, None, None, :], float("-inf"))
            return mask
        if self.cache is not None:
            return self.cache.causal_mask(num_queries)
        if self.documents is not None:
            allowed = self.documents[:, :, None] == self.documents[:, None, :]  # (B, S, S)
            if self.causal:
                columns = torch.arange(num_queries, device=allowed.device)
                allowed = allowed & (columns <= columns[:, None])
            if self.key_mask is not None:
                allowed = allowed & self.key_mask[:, None, :]
            return allowed[:, None]
        return None if self.key_mask is None else self.key_mask[:, None, None, :]


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


class Attention(nn.Module):
    """What self-attention and cross-attention share: sizes, and the output projection `out`."""

    out: nn.Linear

    def __init__(self, config: ModelConfig, layer_config: LayerConfig):
        super().__init__()
        self.num_heads, self.head_size = config.num_heads, config.head_size
        self.attention_size = config.attention_size
        self.softmax_scale = layer_config.softmax_scale
        self.dropout = config.dropout

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, causal: bool
    ) -> Tensor:
        """Query (B, N, Q, D), key and value (B, N, K, D) -> projected output (B, Q, H)."""
        mixed = attention(
            query,
            key,
            value,
            scale=self.softmax_scale,
            bias=mask,
            causal=causal,
            dropout=self.dropout if self.training else 0.0,
        )
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output

    def _split_heads(self, projected: Tensor) -> Tensor:
        """(B, S, N*D) -> (B, N, S, D)."""
        return projected.view(*projected.shape[:2], self.num_heads, self.head_size).transpose(1, 2)


class SelfAttention(Attention):
    """Attention over the sequence itself, or within each sequence of a packed stream."""

    def __init__(self, config: ModelConfig, layer_config: LayerConfig):
        super().__init__(config, layer_config)
        h, a = config.hidden_size, config.attention_size
        self.query_key_value = nn.Linear(h, 3 * a, bias=layer_config.use_bias)
        self.out = nn.Linear(a, h, bias=layer_config.use_bias)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """x (B, Q, H) -> (B, Q, H), or packed (T, H) -> (T, H)."""
        if context.packing is not None:
            return self._forward_packed(x, context.packing, context.causal)
        query, key, value = map(self._split_heads, self.query_key_value(x).chunk(3, dim=-1))
        if context.cache is not None:
            key, value = context.cache.extend(self, key, value)
        causal = context.causal and context.mask is None
        return self._attend(query, key, value, mask=context.mask, causal=causal)

    def _forward_packed(self, x: Tensor, packing: Packing, causal: bool) -> Tensor:
        mixed = packed_attention(  # (T, N, D)
            self.query_key_value(x).unflatten(-1, (3, self.num_heads, self.head_size)),
            packing,
            scale=self.softmax_scale,
            causal=causal,
            dropout=self.dropout if self.training else 0.0,
        )
        output: Tensor = self.out(mixed.flatten(1))
        return output


class CrossAttention(Attention):
    """Attention of a decoder layer over the encoder's output."""

    def __init__(self, config: ModelConfig, layer_config: LayerConfig):
        super().__init__(config, layer_config)
        h, a = config.hidden_size, config.attention_size
        self.query = nn.Linear(h, a, bias=layer_config.use_bias)
        self.key_value = nn.Linear(h, 2 * a, bias=layer_config.use_bias)
        self.out = nn.Linear(a, h, bias=layer_config.use_bias)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """x (B, Q, H), attending to `context.memory` (B, K, H) -> (B, Q, H)."""
        memory, cache = context.memory, context.cache
        assert memory is not None
        query = self._split_heads(self.query(x))
        if cache is None:
            key, value = self._read(memory)
        else:
            key, value = cache.get_or_compute(self, lambda: self._read(memory))
        mask = None if context.memory_mask is None else context.memory_mask[:, None, None, :]
        return self._attend(query, key, value, mask=mask, causal=False)

    def _read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return self._split_heads(key), self._split_heads(value)
