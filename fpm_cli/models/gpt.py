"""GPT: a causal decoder with learned positions and logits tied to the token embedding.

After CPM-1 (TsinghuaAI/CPM-1-Pretrain) and the paper, section 3.1. Shapes: B batch, S sequence,
T tokens of a packed stream, H hidden size, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.attention import AttentionContext
from fpm_cli.models.blocks import Stack
from fpm_cli.models.kv_cache import KVCache
from fpm_cli.models.layer_config import LayerConfig, tanh_gelu
from fpm_cli.ops.attention import Packing
from fpm_cli.ops.linear_cross_entropy import linear_cross_entropy


class GPT(nn.Module):
    """Batch -> summed next-token loss; `logits` for scoring, `next_logits` for generation."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        layer_config = LayerConfig(
            use_bias=True,
            gated_mlp=False,
            rms_norm=False,
            activation=tanh_gelu,
            softmax_scale=1 / math.sqrt(config.head_size),
            deepnorm_alpha=(2 * config.num_layers) ** 0.25,
            deepnorm_beta=(8 * config.num_layers) ** -0.25,
        )
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_positions, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = Stack(config, layer_config, config.num_layers)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed next-token loss of a batch.

        Args:
            batch: `tokens`, `labels` (B, S) int64, `loss_mask` (B, S) float32, and optionally `documents`.
        """
        hidden = self._hidden(batch["tokens"], batch.get("documents"))
        embedding = self.token_embedding.weight
        return {"lm": linear_cross_entropy(hidden, embedding, batch["labels"], batch["loss_mask"])}

    def logits(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits of each next token: tokens (B, S) int64 -> (B, S, V).

        Args:
            tokens: (B, S) int64.
            documents: (B, S) int64, rising, the document of each token. Attention stays within a document,
                and positions restart at 0 with each. None: each row is one document.
        """
        return self._project(self._hidden(tokens, documents))

    def _hidden(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        """Final hidden states (B, S, H); arguments as for `logits`."""
        if documents is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        else:
            positions = positions_in_documents(documents)
        return self._decode(tokens, positions, AttentionContext(causal=True, documents=documents))

    def next_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Tokens (B, S) int64 that follow those in `cache` -> logits after the last one (B, V)."""
        context = AttentionContext(causal=True, cache=cache)
        hidden = self._decode(tokens, cache.positions(tokens.shape[1]), context)
        cache.advance(tokens.shape[1])
        return self._project(hidden[:, -1])

    def hidden_packed(self, tokens: Tensor, packing: Packing) -> Tensor:
        """Tokens (T,) int64 of sequences end to end -> final hidden states (T, H), without padding."""
        context = AttentionContext(causal=True, packing=packing)
        return self._decode(tokens, packing.positions(tokens.device), context)

    def _decode(self, tokens: Tensor, positions: Tensor, context: AttentionContext) -> Tensor:
        """Final hidden states: tokens and positions (..., S) int64 -> (..., S, H)."""
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        hidden: Tensor = self.decoder(x, context)
        return hidden

    def _project(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) -> logits (..., V), by the transposed token embedding."""
        return F.linear(hidden, self.token_embedding.weight)

    @staticmethod
    def num_predictions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The number of predictions that each loss of `forward` sums."""
        return {"lm": batch["loss_mask"].sum()}


def positions_in_documents(documents: Tensor) -> Tensor:
    """The position of each token in its document: (B, S) int64, rising -> (B, S) int64."""
    columns = torch.arange(documents.shape[1], device=documents.device)
    is_first = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)  # (B, S)
    return columns - torch.where(is_first, columns, 0).cummax(dim=1).values
