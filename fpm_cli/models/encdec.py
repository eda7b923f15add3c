"""The encoder-decoder: close to T5 v1.1, after CPM-2 (TsinghuaAI/CPM-2-Pretrain).

Pre-RMSNorm, gated tanh-GELU, no biases, unscaled scores, relative position bias, untied head. Shapes: B
batch, S_e and S_d encoder and decoder sequence, H hidden size, N heads, Q queries, K keys, V vocabulary.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.attention import AttentionContext
from fpm_cli.models.blocks import Stack
from fpm_cli.models.kv_cache import KVCache
from fpm_cli.models.layer_config import LayerConfig, tanh_gelu
from fpm_cli.ops.linear_cross_entropy import linear_cross_entropy

NUM_BUCKETS = 32
MAX_DISTANCE = 128


class RelativePositionBias(nn.Module):
    """One learned number per head and bucket of distance, added to the attention scores of a whole stack.

    Small distances have a bucket each, larger ones share logarithmic buckets up to 128, and all beyond share
    one (Raffel et al. 2020, section 2.1). Bidirectional: half of the buckets are for later keys.
    """

    def __init__(self, num_heads: int, *, bidirectional: bool):
        super().__init__()
        self.table = nn.Embedding(NUM_BUCKETS, num_heads)
        self.bidirectional = bidirectional

    def forward(self, num_queries: int, num_keys: int) -> Tensor:
        """The bias (1, N, Q, K) of queries that are the last positions of the keys."""
        keys = torch.arange(num_keys, device=self.table.weight.device)
        queries = keys[num_keys - num_queries :]
        offset = keys[None, :] - queries[:, None]  # (Q, K): positive where the key is later
        bias: Tensor = self.table(self._bucket(offset)).permute(2, 0, 1)[None]
        return bias

    def _bucket(self, offset: Tensor) -> Tensor:
        num_buckets, start = NUM_BUCKETS, torch.zeros_like(offset)
        if self.bidirectional:
            num_buckets //= 2
            start = (offset > 0).long() * num_buckets
            distance = offset.abs()
        else:
            distance = (-offset).clamp(min=0)
        exact = num_buckets // 2
        share = torch.log(distance.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact)
        far = (exact + (share * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
        return start + torch.where(distance < exact, distance, far)


class EncoderDecoder(nn.Module):
    """Batch -> summed next-token loss; `num_layers` counts both stacks, half each."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        depth = config.num_layers // 2
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder_bias = RelativePositionBias(config.num_heads, bidirectional=True)
        self.decoder_bias = RelativePositionBias(config.num_heads, bidirectional=False)
        self.encoder = Stack(config, _encoder_layer_config(depth), depth)
        self.decoder = Stack(config, _decoder_layer_config(depth), depth)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed loss of the target tokens given the corrupted input."""
        mask = batch.get("encoder_mask")
        memory = self.encode(batch["encoder_tokens"], mask)
        hidden = self.decode_hidden(batch["decoder_tokens"], memory, mask)
        return {"lm": linear_cross_entropy(hidden, self.head.weight, batch["labels"], batch["loss_mask"])}

    def encode(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, S_e) int64, mask (B, S_e) bool (True: a real token) -> memory (B, S_e, H).

        Without a mask every token is real, here and below.
        """
        length = tokens.shape[1]
        context = AttentionContext(bias=self.encoder_bias(length, length), key_mask=mask)
        memory: Tensor = self.encoder(self.dropout(self.token_embedding(tokens)), context)
        return memory

    def decode(self, tokens: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Decoder tokens (B, S_d), memory (B, S_e, H) and its mask (B, S_e) -> logits (B, S_d, V)."""
        logits: Tensor = self.head(self.decode_hidden(tokens, memory, memory_mask))
        return logits

    def next_logits(
        self, tokens: Tensor, memory: Tensor, memory_mask: Tensor | None, cache: KVCache
    ) -> Tensor:
        """Decoder tokens (B, S) that follow those in `cache` -> logits after the last one (B, V)."""
        hidden = self.decode_hidden(tokens, memory, memory_mask, cache)
        cache.advance(tokens.shape[1])
        logits: Tensor = self.head(hidden[:, -1])
        return logits

    def decode_hidden(
        self, tokens: Tensor, memory: Tensor, memory_mask: Tensor | None, cache: KVCache | None = None
    ) -> Tensor:
        """As `decode`, to final hidden states (B, S_d, H)."""
        num_queries = tokens.shape[1]
        num_keys = num_queries + (0 if cache is None else cache.length)
        context = AttentionContext(
            causal=True,
            bias=self.decoder_bias(num_queries, num_keys),
            memory=memory,
            memory_mask=memory_mask,
            cache=cache,
        )
        hidden: Tensor = self.decoder(self.dropout(self.token_embedding(tokens)), context)
        return hidden

    @staticmethod
    def num_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The number of predictions that each loss of `forward` sums."""
        return {"lm": batch["loss_mask"].sum()}


def _encoder_layer_config(depth: int) -> LayerConfig:
    """DeepNorm's (N^4 M)^(1/16) is depth^(5/16) here, where both stacks are equally deep."""
    return LayerConfig(
        use_bias=False,
        gated_mlp=True,
        rms_norm=True,
        activation=tanh_gelu,
        softmax_scale=1.0,
        deepnorm_alpha=0.81 * depth**0.3125,
        deepnorm_beta=0.87 * depth**-0.3125,
    )


def _decoder_layer_config(depth: int) -> LayerConfig:
    return replace(
        _encoder_layer_config(depth),
        deepnorm_alpha=(3 * depth) ** 0.25,
        deepnorm_beta=(12 * depth) ** -0.25,
        cross_attention=True,
    )
