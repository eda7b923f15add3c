"""GPT: a causal decoder with learned positions and logits tied to the token embedding.

After CPM-1 (TsinghuaAI/CPM-1-Pretrain) and the paper, section 3.1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.blocks import Stack, Style, summed_cross_entropy, tanh_gelu


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

    def hidden(self, tokens: Tensor) -> Tensor:
        """Tokens (B, S) int64 -> final hidden states (B, S, H)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(positions))
        return self.decoder(x, None, True)  # type: ignore[no-any-return]

    def logits(self, tokens: Tensor) -> Tensor:
        """Tokens (B, S) int64 -> logits of the next token (B, S, V)."""
        return F.linear(self.hidden(tokens), self.tokens.weight)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`tokens`, `labels`, `loss_mask` (B, S) -> the summed next-token loss."""
        return {"lm": summed_cross_entropy(self.logits(batch["tokens"]), batch["labels"], batch["loss_mask"])}

    @staticmethod
    def num_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many predictions each summed loss of `forward` adds up."""
        return {"lm": batch["loss_mask"].sum()}
