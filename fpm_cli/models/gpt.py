"""GPT: a causal decoder with learned positions and logits tied to the token embedding.

After CPM-1 (TsinghuaAI/CPM-1-Pretrain) and the paper, section 3.1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.blocks import Stack, Style, summed_cross_entropy, tanh_gelu
from fpm_cli.models.cache import Cache
from fpm_cli.ops.attention import Packing


class GPT(nn.Module):
    """Batch -> summed next-token loss; `logits(tokens)` for scoring and generation."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        style = Style(
            bias=True,
            gated=False,
            rms_norm=False,
            activation=tanh_gelu,
            score_scale=1 / math.sqrt(config.head_size),
            alpha=(2 * config.num_layers) ** 0.25,
            beta=(8 * config.num_layers) ** -0.25,
        )
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_positions, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = Stack(config, style, config.num_layers)

    def hidden(self, tokens: Tensor, cache: Cache | None = None, documents: Tensor | None = None) -> Tensor:
        """Tokens (B, S) int64 -> final hidden states (B, S, H).

        Args:
            cache: tokens follow what it has read.
            documents: (B, S) int64, each token's document, rising; none sees another's, and positions
                begin anew with each.
        """
        count, bias = tokens.shape[1], None
        positions = torch.arange(count, device=tokens.device)
        if cache:
            positions, bias = cache.positions(count), cache.visible(count)
        elif documents is not None:
            positions, bias = _within(documents)
        x = self.dropout(self.tokens(tokens) + self.positions(positions))
        hidden = self.decoder(x, bias, bias is None, None, None, cache)
        if cache:
            cache.advance(count)
        return hidden  # type: ignore[no-any-return]

    def hidden_packed(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Tokens (T,) int64 of sequences end to end -> final hidden states (T, H); no padding."""
        x = self.tokens(tokens) + self.positions(packing.positions(tokens.device))
        return self.decoder(self.dropout(x), packing, True)  # type: ignore[no-any-return]

    def logits(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Tokens (B, S) int64 -> logits of the next token (B, S, V); `documents` as for `hidden`."""
        return F.linear(self.hidden(tokens, documents=documents), self.tokens.weight)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Tokens (B, S) int64 that follow what `cache` has read -> logits after the last (B, V)."""
        return F.linear(self.hidden(tokens, cache)[:, -1], self.tokens.weight)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`tokens`, `labels`, `loss_mask` (B, S) and perhaps `documents` -> the summed next-token loss."""
        logits = self.logits(batch["tokens"], batch.get("documents"))
        return {"lm": summed_cross_entropy(logits, batch["labels"], batch["loss_mask"])}

    @staticmethod
    def num_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many predictions each summed loss of `forward` adds up."""
        return {"lm": batch["loss_mask"].sum()}


def _within(documents: Tensor) -> tuple[Tensor, Tensor]:
    """Documents (B, S) -> positions from each one's first token (B, S), and who sees whom (B, 1, S, S)."""
    columns = torch.arange(documents.shape[1], device=documents.device)
    same = documents[:, :, None] == documents[:, None, :]  # (B, S, S)
    first = same.int().argmax(dim=-1)  # the first column of the same document
    return columns - first, (same & (columns <= columns[:, None]))[:, None]
