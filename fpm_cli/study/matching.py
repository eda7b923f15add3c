"""What is held equal over the depths of a study; the width that makes it so is solved for.

| match    | equal over depths                                                              |
|----------|--------------------------------------------------------------------------------|
| `width`  | the hidden size: only the depth changes, as in the paper                       |
| `params` | parameters of the layers (embeddings and heads are not counted)                |
| `flops`  | model FLOPs per token                                                          |
| `time`   | predicted seconds per optimizer step on the device                             |

Widths are multiples of the head size, so that the match is not exact; `MatchedModel.error` says by how much.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fpm_cli.accounting.flops import step_flops
from fpm_cli.accounting.parameters import parameter_shapes
from fpm_cli.config.resolve import validate
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import UsageError

Match = Literal["width", "params", "flops", "time"]
MAX_HEADS = 1024
STACKS = ("encoder.", "decoder.")  # of parameter names: the layers and their final norm


@dataclass(frozen=True)
class MatchedModel:
    """A configuration of one depth and what it has of the matched quantity."""

    config: RunConfig
    quantity: float  # parameters, FLOPs per token or seconds per step; the width itself for `width`
    target: float

    @property
    def error(self) -> float:
        """Relative difference from the target, positive where this depth has more."""
        return self.quantity / self.target - 1


def match_depth(
    reference: RunConfig,
    depth: int,
    match: Match,
    seconds_per_step: Callable[[RunConfig], float] | None = None,
) -> MatchedModel:
    """`reference` at another depth, with the width at which it equals `reference` in what `match` names.

    Args:
        reference: the configuration at the reference depth and width.
        depth: `model.num_layers` of the result (both stacks together for the encoder-decoder).
        match: what is held equal.
        seconds_per_step: predicts the time of a step; needed for `time`.

    Raises:
        UsageError: no width can match, or the depth is not one that the family can have.
    """
    if match == "width":
        config = with_depth_and_heads(reference, depth, reference.model.num_heads)
        return MatchedModel(config, config.model.hidden_size, reference.model.hidden_size)
    measure = _quantity(match, seconds_per_step)
    target = measure(reference)

    def at(heads: int) -> float:
        return measure(with_depth_and_heads(reference, depth, heads))

    heads = _nearest(at, target)
    quantity = at(heads)
    if quantity > 2 * target or quantity < target / 2:
        raise UsageError(
            f"{depth} layers cannot match the {match} of {reference.model.num_layers} layers of "
            f"{reference.model.hidden_size}: the nearest width is {heads * reference.model.head_size}; "
            "take a wider reference (--width) or leave that depth out"
        )
    return MatchedModel(with_depth_and_heads(reference, depth, heads), quantity, target)


def with_depth_and_heads(reference: RunConfig, depth: int, num_heads: int) -> RunConfig:
    """`reference` with another depth and number of heads; head size and the ratio of the MLP stay.

    The standard deviation of initial weights follows the width as 1/sqrt(width), so that a layer multiplies
    the size of a normalised signal by the same factor at every width; with `transfer` it stays, since the
    rules of the transfer do that.
    """
    model = reference.model
    hidden = num_heads * model.head_size
    ffn = max(1, round(model.ffn_size * hidden / model.hidden_size))
    changed = model.model_copy(
        update={
            "num_layers": depth,
            "num_heads": num_heads,
            "hidden_size": hidden,
            "ffn_size": ffn,
            "init_std": model.init_std * (1 if reference.transfer else math.sqrt(model.hidden_size / hidden)),
        }
    )
    tree = reference.model_dump()
    tree["model"] = changed.model_dump()
    return validate(tree, {})


def layer_parameters(config: RunConfig) -> int:
    """Parameters of all layers and their final norms, without embeddings and heads."""
    shapes = parameter_shapes(config)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(STACKS))


def _quantity(
    match: Match, seconds_per_step: Callable[[RunConfig], float] | None
) -> Callable[[RunConfig], float]:
    if match == "params":
        return layer_parameters
    if match == "flops":
        return lambda config: step_flops(config).model_per_token
    assert seconds_per_step is not None, "the match 'time' needs a prediction of the step's time"
    return seconds_per_step


def _nearest(at: Callable[[int], float], target: float) -> int:
    """The number of heads whose quantity, which grows with it, is nearest to the target in ratio."""
    low, high = 1, 1
    while at(high) < target and high < MAX_HEADS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle) < target else (low, middle)
    return min((low, high), key=lambda heads: abs(math.log(at(heads) / target)))
