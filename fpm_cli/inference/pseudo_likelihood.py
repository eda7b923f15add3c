"""Pseudo-log-likelihood of a BERT: the probability of each token given all others, one masked at a time.

Salazar et al., "Masked Language Model Scoring" (ACL 2020), section 2. A token of a word of several is easy to
tell from the rest of its word, so the tokens after it in the same word are masked too (Kauf and Ivanova, "A
Better Way to Do Masked Language Model Scoring", ACL 2023, PLL-word-l2r). The sum is no likelihood of the
text: its bits per byte compare with those of other BERTs, not with those of a GPT.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fpm_cli.corpus.manifest import Split
from fpm_cli.errors import UsageError
from fpm_cli.inference.trained_model import TrainedModel
from fpm_cli.models.bert import BERT
from fpm_cli.objectives.base import special_id
from fpm_cli.progress import Report, ignore_report

_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class PseudoLikelihood:
    """Sums over the scored sentences; the bytes are those of their decoded tokens."""

    num_sentences: int
    num_tokens: int
    pseudo_log_likelihood: float  # nats
    pseudo_perplexity: float
    pseudo_bits_per_byte: float


def score_pseudo_likelihood(
    trained: TrainedModel,
    *,
    max_sentences: int,
    split: Split = "validation",
    report: Report = ignore_report,
) -> PseudoLikelihood:
    """Score the first sentences of a split of the run's corpus, each on its own, and report their number.

    Raises:
        UsageError: the run is no BERT, or was imported without the head that predicts tokens.
    """
    if not isinstance(trained.model, BERT):
        raise UsageError(f"{trained.config.name} is no BERT; pseudo-likelihood is of masked language models")
    if "mlm_head" in trained.untrained_heads:
        raise UsageError(f"{trained.config.name} was imported without a masked-token head")
    data, starts = trained.corpus.split(split), trained.corpus.word_starts(split)
    assert starts is not None, "every corpus of a BERT tells where words start"
    longest = trained.config.model.max_positions - 2
    total, num_tokens, num_bytes, num_sentences = 0.0, 0, 0, min(len(data), max_sentences)
    for index in range(num_sentences):
        first = int(data.pointers[index]) // data.dtype.itemsize
        ids = data[index][:longest].tolist()
        is_start = starts[first : first + len(ids)].astype(bool).tolist()
        total += sum(pseudo_log_likelihoods(trained, ids, is_start))
        num_tokens += len(ids)
        num_bytes += len(trained.tokenizer.decode(ids).encode())
        report(index + 1, num_sentences)
    return PseudoLikelihood(
        num_sentences=num_sentences,
        num_tokens=num_tokens,
        pseudo_log_likelihood=total,
        pseudo_perplexity=math.exp(min(-total / num_tokens, 700.0)),
        pseudo_bits_per_byte=-total / math.log(2) / num_bytes,
    )


def pseudo_log_likelihoods(
    trained: TrainedModel, ids: Sequence[int], word_starts: Sequence[bool]
) -> list[float]:
    """The log-probability in nats of each token of a sentence, given what is not masked with it.

    Args:
        trained: a BERT.
        ids: of the sentence, without special tokens, (n,).
        word_starts: whether a word starts at each token, (n,).
    """
    cls, sep, mask = (special_id(trained.tokenizer, name) for name in ("cls", "sep", "mask"))
    rows = []
    for position in range(len(ids)):
        end = next((i for i in range(position + 1, len(ids)) if word_starts[i]), len(ids))
        rows.append([cls, *ids[:position], *[mask] * (end - position), *ids[end:], sep])
    tokens = torch.tensor(rows, device=trained.device)  # (n, n + 2): row i has token i masked
    targets = torch.tensor(ids, device=trained.device)
    size = max(1, _TOKENS_PER_BATCH // (len(ids) + 2))
    found: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(ids), size):
            found += _masked(trained.model, tokens[start : start + size], start, targets).tolist()
    return found


def _masked(model: torch.nn.Module, tokens: Tensor, start: int, targets: Tensor) -> Tensor:
    """Row i (B, S) has token `start + i` of the sentence masked -> its log-probability (B,)."""
    assert isinstance(model, BERT)
    rows = torch.arange(len(tokens), device=tokens.device)
    real = torch.ones_like(tokens, dtype=torch.bool)
    hidden = model.encode(tokens, torch.zeros_like(tokens), real).hidden
    logits = model.mlm_head(hidden[rows, start + rows + 1], model.token_embedding.weight)  # (B, V)
    log_probabilities: Tensor = logits.double().log_softmax(-1)
    return log_probabilities[rows, targets[start + rows]]
