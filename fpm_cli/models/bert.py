"""BERT: a bidirectional encoder trained on masked words and a task over two halves of a text.

After NVIDIA/Megatron-LM v2.5 (pre-LN with a final LN); with post-LN it is the BERT of 2018. Shapes: B batch,
S sequence, T tokens of a packed stream, H hidden size, V vocabulary.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpm_cli.config.schema import ModelConfig
from fpm_cli.models.attention import AttentionContext
from fpm_cli.models.blocks import Stack, summed_cross_entropy
from fpm_cli.models.layer_config import LayerConfig
from fpm_cli.ops.attention import Packing
from fpm_cli.ops.linear_cross_entropy import linear_cross_entropy

NUM_TOKEN_TYPES = 2
MATCH_TEMPERATURE = 0.1  # divides cosines; 0.05 to 0.1 are usual (Gao et al., arXiv 2104.08821, appendix D)


class MaskedLMHead(nn.Module):
    """Dense, GELU and LN, then logits by the transposed token embedding and a bias of the vocabulary."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Hidden (..., H), embedding (V, H) -> logits (..., V)."""
        return F.linear(self.hidden(hidden), embedding, self.bias)

    def hidden(self, hidden: Tensor) -> Tensor:
        """What the logits are linear in: (..., H) -> (..., H)."""
        output: Tensor = self.norm(F.gelu(self.dense(hidden)))
        return output


class EncoderOutput(NamedTuple):
    """The hidden states of every position, and the pooled `[CLS]`."""

    hidden: Tensor  # (B, S, H); packed (T, H)
    pooled: Tensor  # (B, H)


class BERT(nn.Module):
    """Batch -> summed losses `mlm` and `sentence_order`; `encode` for everything built on top.

    With `sentence_task` "match" the second loss is `sentence_match`: for each first half, classify which
    second half of the micro-batch follows it, and the reverse, by the cosines of their pooled means
    (in-batch negatives: Gao et al., "SimCSE", arXiv 2104.08821, section 2.1; two parts of one text as the
    pair: Lee et al., arXiv 1906.00300, section 4). The loss depends on the size of the micro-batch, and so
    on the number of ranks.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        layer_config = LayerConfig(
            use_bias=True,
            gated_mlp=False,
            rms_norm=False,
            activation=F.gelu,
            softmax_scale=1 / math.sqrt(config.head_size),
            deepnorm_alpha=(2 * config.num_layers) ** 0.25,
            deepnorm_beta=(8 * config.num_layers) ** -0.25,
        )
        h = config.hidden_size
        self.token_embedding = nn.Embedding(config.vocab_size, h)
        self.position_embedding = nn.Embedding(config.max_positions, h)
        self.token_types = nn.Embedding(NUM_TOKEN_TYPES, h)
        pre = config.norm_placement == "pre"
        self.embedding_norm = nn.Identity() if pre else nn.LayerNorm(h, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Stack(config, layer_config, config.num_layers)
        self.pooler = nn.Linear(h, h)
        self.mlm_head = MaskedLMHead(config)
        self.predicts_order = config.sentence_task == "order"
        if self.predicts_order:
            self.sentence_order_head = nn.Linear(h, 2)

    def encode(self, tokens: Tensor, token_types: Tensor, attention_mask: Tensor | None) -> EncoderOutput:
        """Tokens, types (B, S) int64, mask (B, S) bool (True: a real token) -> output of every position.

        Without a mask every token is real.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        context = AttentionContext(key_mask=attention_mask)
        hidden = self._encode(tokens, token_types, positions, context)
        return EncoderOutput(hidden, torch.tanh(self.pooler(hidden[:, 0])))

    def encode_packed(self, tokens: Tensor, token_types: Tensor, packing: Packing) -> EncoderOutput:
        """`encode` of a packed stream, tokens and types (T,) int64, without computing for padding."""
        hidden = self.hidden_packed(tokens, token_types, packing)
        return EncoderOutput(hidden, torch.tanh(self.pooler(packing.first(hidden))))

    def hidden_packed(self, tokens: Tensor, token_types: Tensor, packing: Packing) -> Tensor:
        """`encode_packed` without the pooled `[CLS]`: (T, H)."""
        context = AttentionContext(packing=packing)
        return self._encode(tokens, token_types, packing.positions(tokens.device), context)

    def encode_separately(self, tokens: Tensor, is_second: Tensor, attention_mask: Tensor) -> Tensor:
        """The two texts of each row as two sequences, which do not attend to each other: (B, S, H).

        Args:
            tokens: (B, S) int64.
            is_second: (B, S) bool, True: a token of the second text, whose positions restart at 0.
            attention_mask: (B, S) bool, True: a real token.
        """
        starts = (attention_mask & ~is_second).sum(dim=1, keepdim=True)  # (B, 1), of the second text
        positions = torch.arange(tokens.shape[1], device=tokens.device) - starts * is_second  # (B, S)
        documents = torch.where(attention_mask, is_second.long(), 2)  # padding attends to padding only
        context = AttentionContext(documents=documents)
        return self._encode(tokens, torch.zeros_like(tokens), positions, context)

    def _encode(
        self, tokens: Tensor, token_types: Tensor, positions: Tensor, context: AttentionContext
    ) -> Tensor:
        x = self.token_embedding(tokens) + self.position_embedding(positions) + self.token_types(token_types)
        hidden: Tensor = self.encoder(self.dropout(self.embedding_norm(x)), context)
        return hidden

    def logits(
        self, tokens: Tensor, token_types: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Masked-word logits (B, S, V) of every position; sentence-order logits (B, 2) or None."""
        hidden, pooled = self.encode(tokens, token_types, attention_mask)
        order = self.sentence_order_head(pooled) if self.predicts_order else None
        return self.mlm_head(hidden, self.token_embedding.weight), order

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Both summed losses; logits over the vocabulary are computed for the masked positions only.

        Args:
            batch: as `objectives.masked` makes it. `attention_mask` may be absent, see `encode`. With
                `masked_positions` (int64, in B * S) the device need not report where `loss_mask` is set.
                With `lengths` it is a packed stream, as `objectives.unpad` makes it.
        """
        if "lengths" in batch:
            hidden, sentence = self._forward_packed(batch)
        else:
            hidden, sentence = self._forward_padded(batch)
        masked, loss_mask = batch.get("masked_positions"), batch["loss_mask"].flatten()
        if masked is None:
            masked = loss_mask.nonzero()[:, 0]
        words = self.mlm_head.hidden(hidden.index_select(0, masked))  # (masked, H)
        labels = batch["labels"].flatten().index_select(0, masked)
        embedding, bias = self.token_embedding.weight, self.mlm_head.bias
        mlm = linear_cross_entropy(words, embedding, labels, loss_mask.index_select(0, masked), bias)
        return {"mlm": mlm, **sentence}

    def _forward_padded(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The hidden states of all positions (B * S, H), and the loss of the sentence task."""
        tokens, attention_mask = batch["tokens"], batch.get("attention_mask")  # (B, S)
        if self.predicts_order:
            hidden, pooled = self.encode(tokens, batch["token_types"], attention_mask)
            return hidden.flatten(0, 1), self._order_loss(pooled, batch["sentence_order"])
        is_second = batch["token_types"] > 0
        if attention_mask is None:
            attention_mask = torch.ones_like(is_second)
        hidden = self.encode_separately(tokens, is_second, attention_mask)
        first = masked_mean(hidden, attention_mask & ~is_second)
        second = masked_mean(hidden, attention_mask & is_second)
        return hidden.flatten(0, 1), self._match_loss(first, second)

    def _forward_packed(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """`_forward_padded` of a packed stream: the hidden states (T, H)."""
        packing, token_types = Packing(tuple(batch["lengths"].tolist())), batch["token_types"]
        if self.predicts_order:
            hidden, pooled = self.encode_packed(batch["tokens"], token_types, packing)
            return hidden, self._order_loss(pooled, batch["sentence_order"])
        hidden = self.hidden_packed(batch["tokens"], torch.zeros_like(token_types), packing)
        means = packing.mean(hidden)  # (2B, H)
        first, second = (means.index_select(0, half) for half in batch["halves"].unbind(1))
        return hidden, self._match_loss(first, second)

    def _order_loss(self, pooled: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Of the pooled `[CLS]` (B, H) and whether the segments are swapped (B,)."""
        logits = self.sentence_order_head(pooled)  # (B, 2)
        ones = torch.ones_like(logits[:, 0])  # (B,): every row counts
        return {"sentence_order": summed_cross_entropy(logits, labels, ones)}

    def _match_loss(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Of the means of both halves of each row, (B, H) each."""
        return {"sentence_match": summed_match_loss(self.pooler(first), self.pooler(second))}

    def num_predictions(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The number of predictions that each loss of `forward` sums."""
        if self.predicts_order:
            name, rows = "sentence_order", batch["sentence_order"]
        else:
            name, rows = "sentence_match", batch.get("halves", batch["tokens"])
        count = torch.full((), float(len(rows)), device=rows.device)
        return {"mlm": batch["loss_mask"].sum(), name: count}


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over the positions where the mask is True: (B, S, H), (B, S) bool -> (B, H)."""
    weights = mask.to(hidden.dtype)[:, None]  # (B, 1, S)
    return (weights @ hidden)[:, 0] / weights.sum(dim=2)


def summed_match_loss(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy in float32 of classifying row i of the other (B, H) by cosine, mean of both ways."""
    cosines = F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T  # (B, B)
    scores, labels = cosines / MATCH_TEMPERATURE, torch.arange(len(first), device=first.device)
    forwards, backwards = (F.cross_entropy(each, labels, reduction="sum") for each in (scores, scores.T))
    return (forwards + backwards) / 2
