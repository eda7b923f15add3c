"""How the next token is chosen from the logits: greedy, or sampled with temperature, top-k and top-p."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fpm_cli.errors import UsageError

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3
MAX_TOKENS = 1 << 20
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are generated. Temperature 0 is greedy decoding.

    Raises:
        UsageError: a value is out of range; division by a tiny temperature overflows, for example.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        checks = {
            f"--temperature {self.temperature:g}: 0, or {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}": (
                self.temperature == 0 or MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE
            ),
            f"--top-p {self.top_p:g}: above 0, and at most 1": 0 < self.top_p <= 1,
            f"--top-k {self.top_k}: 0 or more": self.top_k >= 0,
            f"--max-tokens {self.max_tokens}: 1 to {MAX_TOKENS:,}": 1 <= self.max_tokens <= MAX_TOKENS,
            f"--seed {self.seed}: 0 to {MAX_SEED}": 0 <= self.seed <= MAX_SEED,
        }
        for message, holds in checks.items():
            if not holds:
                raise UsageError(message)


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
