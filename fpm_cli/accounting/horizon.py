"""How long to train: a number of tokens, of model FLOPs, or of tokens per parameter, as optimizer steps."""

import math
from dataclasses import dataclass

from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.parameters import count_parameters
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError


@dataclass(frozen=True)
class Horizon:
    """At most one of these is set; none leaves `train.steps` as it is."""

    tokens: float | None = None  # encoder and decoder tokens alike
    flops: float | None = None  # model FLOPs, nothing computed twice
    tokens_per_parameter: float | None = None  # of all parameters, embeddings included


def steps_of(config: RunConfig, horizon: Horizon) -> int:
    """The least number of optimizer steps that reaches the horizon, at least 1.

    Raises:
        UsageError: more than one is set, or one is not a positive finite number.
    """
    given: dict[str, float] = {n: value for n, value in vars(horizon).items() if value is not None}
    if not given:
        return config.train.steps
    if len(given) > 1:
        raise UsageError(f"{' and '.join(map(flag, given))}: only one of them can end the training")
    ((name, value),) = given.items()
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{flag(name)} {value:g}: a positive number")
    step = step_flops(config)
    amount = value * count_parameters(config) if name == "tokens_per_parameter" else value
    return max(1, math.ceil(amount / (step.model if name == "flops" else step.tokens)))


def flag(name: str) -> str:
    """`tokens_per_parameter` as it is typed."""
    return "--" + name.replace("_", "-")
