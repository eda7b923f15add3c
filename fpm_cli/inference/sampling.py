"""How the next token is chosen from the logits: greedy, or sampled with temperature, top-k and top-p."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are generated. Temperature 0 is greedy decoding."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    seed: int = 0


def sample_token(logits: Tensor, sampling: SamplingConfig, generator: torch.Generator) -> int:
    """One token id from the logits (V,): the largest at temperature 0, else sampled.

    Top-k keeps the k most probable tokens; top-p then keeps the fewest whose probabilities sum to p.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    values, ids = (logits.float() / sampling.temperature).sort(descending=True)
    if sampling.top_k:
        values, ids = values[: sampling.top_k], ids[: sampling.top_k]
    probabilities = values.softmax(-1)
    cumulative_before = probabilities.cumsum(-1) - probabilities  # probability of all more probable tokens
    probabilities = torch.where(cumulative_before < sampling.top_p, probabilities, 0.0)
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])
