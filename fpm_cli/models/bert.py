"""BERT: a bidirectional encoder trained on masked words and a task over two halves of a text.

After NVIDIA/Megatron-LM v2.5 (pre-LN with a final LN); with post-LN it is the BERT of 2018.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.blocks import Stack, Style, summed_cross_entropy
from fpm_cli.ops.attention import Packing

NUM_TOKEN_TYPES = 2
MATCH_TEMPERATURE = 0.1  # of cosines; 0.05 to 0.1 are usual (Gao et al., arXiv 2104.08821, appendix D)


class MaskedLMHead(nn.Module):
    """Dense + GELU + LN, then a decoder tied to the token embedding with a bias of its own."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Hidden (..., H), embedding (V, H) -> logits (..., V)."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), embedding, self.bias)


class Encoded(NamedTuple):
    """What the encoder gives: every position, and the pooled `[CLS]`."""

    hidden: Tensor  # (B, S, H); packed (T, H)
    pooled: Tensor  # (B, H)


class BERT(nn.Module):
    """Batch -> summed losses `mlm` and `sentence_order`; `encode` for everything built on top.

    With `sentence_task` "match" the second loss is `sentence_match`: which second half of the micro-batch
    goes with a first one, and the reverse, told by the pooled means of both (in-batch negatives: Gao et
    al., "SimCSE", arXiv 2104.08821, section 2.1; a text's own parts as the pair: Lee et al., arXiv
    1906.00300, section 4). Smaller micro-batches make it easier: on other numbers of ranks its loss differs.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        style = Style(
            bias=True,
            gated=False,
            rms_norm=False,
            activation=F.gelu,
            score_scale=1 / math.sqrt(config.head_size),
            alpha=(2 * config.num_layers) ** 0.25,
            beta=(8 * config.num_layers) ** -0.25,
        )
        h = config.hidden_size
        self.tokens = nn.Embedding(config.vocab_size, h)
        self.positions = nn.Embedding(config.max_positions, h)
        self.token_types = nn.Embedding(NUM_TOKEN_TYPES, h)
        pre = config.norm_placement == "pre"
        self.embedding_norm = nn.Identity() if pre else nn.LayerNorm(h, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Stack(config, style, config.num_layers)
        self.pooler = nn.Linear(h, h)
        self.mlm_head = MaskedLMHead(config)
        self.tells_order = config.sentence_task == "order"
        if self.tells_order:
            self.sentence_order_head = nn.Linear(h, 2)

    def encode(self, tokens: Tensor, token_types: Tensor, attention_mask: Tensor) -> Encoded:
        """Tokens, types (B, S) int64, mask (B, S) bool (True: a real token)."""
        x = self._embed(tokens, token_types, torch.arange(tokens.shape[1], device=tokens.device))
        keep = attention_mask[:, None, None, :]  # (B, 1, 1, S): keys that may be seen
        hidden = self.encoder(x, keep, False)
        return Encoded(hidden, torch.tanh(self.pooler(hidden[:, 0])))

    def encode_packed(self, tokens: Tensor, token_types: Tensor, packing: Packing) -> Encoded:
        """`encode` of sequences end to end, tokens and types (T,) int64; nothing is computed for padding."""
        hidden = self.hidden_packed(tokens, token_types, packing)
        return Encoded(hidden, torch.tanh(self.pooler(packing.first(hidden))))

    def hidden_packed(self, tokens: Tensor, token_types: Tensor, packing: Packing) -> Tensor:
        """`encode_packed` without the pooled `[CLS]`: (T, H)."""
        x = self._embed(tokens, token_types, packing.positions(tokens.device))
        return self.encoder(x, packing, False)  # type: ignore[no-any-return]

    def encode_apart(self, tokens: Tensor, second: Tensor, attention_mask: Tensor) -> Tensor:
        """Two texts a row as two sequences: tokens (B, S), second (B, S) bool (True: of the second text),
        mask (B, S) bool -> hidden (B, S, H). Each sees itself only, and its positions begin at 0.
        """
        starts = (attention_mask & ~second).sum(dim=1, keepdim=True)  # (B, 1), of the second text
        positions = torch.arange(tokens.shape[1], device=tokens.device) - starts * second  # (B, S)
        x = self._embed(tokens, torch.zeros_like(tokens), positions)
        together = second[:, :, None] == second[:, None, :]  # (B, S, S)
        return self.encoder(x, (together & attention_mask[:, None, :])[:, None], False)  # type: ignore[no-any-return]

    def _embed(self, tokens: Tensor, token_types: Tensor, positions: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(positions) + self.token_types(token_types)
        return self.dropout(self.embedding_norm(x))  # type: ignore[no-any-return]

    def logits(
        self, tokens: Tensor, token_types: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Masked-word logits (B, S, V) at every position, and sentence-order logits (B, 2), if any."""
        hidden, pooled = self.encode(tokens, token_types, attention_mask)
        order = self.sentence_order_head(pooled) if self.tells_order else None
        return self.mlm_head(hidden, self.tokens.weight), order

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Both summed losses; the vocabulary is scored only at the masked positions."""
        keep, chosen = batch["attention_mask"], batch["loss_mask"] > 0  # (B, S)
        if self.tells_order:
            hidden, pooled = self.encode(batch["tokens"], batch["token_types"], keep)
            order = self.sentence_order_head(pooled)  # (B, 2)
            every = torch.ones_like(order[:, 0])  # (B,)
            sentence = {"sentence_order": summed_cross_entropy(order, batch["sentence_order"], every)}
        else:
            second = batch["token_types"] > 0
            hidden = self.encode_apart(batch["tokens"], second, keep)
            first, other = (self.pooler(mean_pooled(hidden, keep & half)) for half in (~second, second))
            sentence = {"sentence_match": summed_match_loss(first, other)}
        words = self.mlm_head(hidden[chosen], self.tokens.weight)  # (masked, V)
        mlm = summed_cross_entropy(words, batch["labels"][chosen], batch["loss_mask"][chosen])
        return {"mlm": mlm, **sentence}

    def num_predictions(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """How many predictions each summed loss of `forward` adds up."""
        return {
            "mlm": batch["loss_mask"].sum(),
            "sentence_order" if self.tells_order else "sentence_match": torch.tensor(
                float(len(batch["tokens"])), device=batch["tokens"].device
            ),
        }


def mean_pooled(hidden: Tensor, chosen: Tensor) -> Tensor:
    """The mean row over the chosen positions: (B, S, H), (B, S) bool -> (B, H)."""
    weights = chosen.to(hidden.dtype)[:, None]  # (B, 1, S)
    return (weights @ hidden)[:, 0] / weights.sum(dim=2)


def summed_match_loss(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy in float32 of finding row i of the other (B, H) by cosine: the mean of both ways."""
    cosines = F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T  # (B, B)
    scores, places = cosines / MATCH_TEMPERATURE, torch.arange(len(first), device=first.device)
    both = [F.cross_entropy(each, places, reduction="sum") for each in (scores, scores.T)]
    return (both[0] + both[1]) / 2
