"""The encoder-decoder: T5 v1.1's relative, after CPM-2 (TsinghuaAI/CPM-2-Pretrain).

Pre-RMSNorm, gated tanh-GELU, no biases, unscaled scores, relative position bias, untied head.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.blocks import Stack, Style, summed_cross_entropy, tanh_gelu
from fpm_cli.models.cache import Cache

NUM_BUCKETS = 32
MAX_DISTANCE = 128


class RelativeBias(nn.Module):
    """One learned number per head and bucket of distance, added to the scores of a whole stack.

    Near distances have a bucket each, far ones share logarithmic buckets up to 128 and one beyond
    (Raffel et al. 2020, section 2.1). Bidirectional: half the buckets look ahead.
    """

    def __init__(self, num_heads: int, *, bidirectional: bool):
        super().__init__()
        self.table = nn.Embedding(NUM_BUCKETS, num_heads)
        self.bidirectional = bidirectional

    def forward(self, num_queries: int, num_keys: int) -> Tensor:
        """(1, N, Q, K), the queries being the last of the keys; in a decoder what is ahead is -inf."""
        keys = torch.arange(num_keys, device=self.table.weight.device)
        queries = keys[num_keys - num_queries :]
        offset = keys[None, :] - queries[:, None]  # (Q, K): how far ahead the key stands
        bias: Tensor = self.table(self._bucket(offset)).permute(2, 0, 1)[None]
        return bias if self.bidirectional else bias.masked_fill(offset > 0, float("-inf"))

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
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder_bias = RelativeBias(config.num_heads, bidirectional=True)
        self.decoder_bias = RelativeBias(config.num_heads, bidirectional=False)
        self.encoder = Stack(config, _encoder_style(depth), depth)
        self.decoder = Stack(config, _decoder_style(depth), depth)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def encode(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, S_e) int64, mask (B, S_e) bool -> memory (B, S_e, H)."""
        bias = self.encoder_bias(tokens.shape[1], tokens.shape[1])
        bias = bias.masked_fill(~mask[:, None, None, :], float("-inf"))  # (B, N, S_e, S_e)
        return self.encoder(self.dropout(self.tokens(tokens)), bias, False)  # type: ignore[no-any-return]

    def decode(self, tokens: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Decoder tokens (B, S_d), memory (B, S_e, H) and its mask (B, S_e) -> logits (B, S_d, V)."""
        return self.head(self.decode_hidden(tokens, memory, memory_mask))  # type: ignore[no-any-return]

    def next_logits(self, tokens: Tensor, memory: Tensor, memory_mask: Tensor, cache: Cache) -> Tensor:
        """Decoder tokens (B, S) that follow what `cache` has read -> logits after the last (B, V)."""
        hidden = self.decode_hidden(tokens, memory, memory_mask, cache)
        cache.advance(tokens.shape[1])
        return self.head(hidden[:, -1])  # type: ignore[no-any-return]

    def decode_hidden(
        self, tokens: Tensor, memory: Tensor, memory_mask: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """As `decode`, to final hidden states (B, S_d, H)."""
        count = tokens.shape[1]
        bias = self.decoder_bias(count, count + (cache.length if cache else 0))
        x = self.dropout(self.tokens(tokens))
        return self.decoder(x, bias, False, memory, memory_mask[:, None, None, :], cache)  # type: ignore[no-any-return]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed loss of the target tokens given the corrupted input."""
        memory = self.encode(batch["encoder_tokens"], batch["encoder_mask"])
        logits = self.decode(batch["decoder_tokens"], memory, batch["encoder_mask"])
        return {"lm": summed_cross_entropy(logits, batch["labels"], batch["loss_mask"])}

    @staticmethod
    def num_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many predictions each summed loss of `forward` adds up."""
        return {"lm": batch["loss_mask"].sum()}


def _encoder_style(depth: int) -> Style:
    """DeepNorm's (N^4 M)^(1/16) is depth^(5/16) here, where both stacks are equally deep."""
    return Style(
        bias=False,
        gated=True,
        rms_norm=True,
        activation=tanh_gelu,
        score_scale=1.0,
        alpha=0.81 * depth**0.3125,
        beta=0.87 * depth**-0.3125,
    )


def _decoder_style(depth: int) -> Style:
    return replace(
        _encoder_style(depth), alpha=(3 * depth) ** 0.25, beta=(12 * depth) ** -0.25, cross_attention=True
    )
