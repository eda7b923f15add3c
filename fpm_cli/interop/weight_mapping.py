"""How the parameters of a network map to those of an architecture in transformers, in both directions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fpm_cli.config.schema import ModelConfig
from fpm_cli.errors import DamagedError, UsageError

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class ParameterMapping:
    """One fpm parameter and its name in transformers.

    With several names, the fpm parameter is their concatenation along the first dimension.
    """

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Architecture:
    """The architecture in transformers that computes exactly what an fpm network computes."""

    class_name: str
    config: dict[str, Any]  # config.json
    mappings: tuple[ParameterMapping, ...]  # every fpm parameter once
    prefix: str  # of the backbone's names in a model with heads; absent from a bare backbone


def map_module(ours: str, *theirs: str, kinds: Iterable[str] = ("weight", "bias")) -> list[ParameterMapping]:
    """The mappings of a module's tensors, given the modules' names."""
    return [ParameterMapping(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs)) for kind in kinds]


def to_transformers(mappings: Iterable[ParameterMapping], state: Mapping[str, Tensor]) -> StateDict:
    """fpm tensors (weights or gradients) under transformers' names and in its shapes."""
    named: StateDict = {}
    for mapping in mappings:
        parts = state[mapping.ours].chunk(len(mapping.theirs))
        for name, part in zip(mapping.theirs, parts, strict=True):
            named[name] = (part.T if mapping.transposed else part).contiguous()
    return named


def from_transformers(architecture: Architecture, state: Mapping[str, Tensor]) -> StateDict:
    """The tensors of a checkpoint of transformers under fpm's names, in float32.

    A parameter that `state` lacks is left out. The names may lack the prefix, as in a checkpoint that was
    saved without heads, and norms may be called `gamma` and `beta`, as in the first BERT releases.
    """

    def find(name: str) -> Tensor | None:
        return next(
            (state[candidate] for candidate in names_of(architecture, name) if candidate in state), None
        )

    named: StateDict = {}
    for mapping in architecture.mappings:
        parts = [part for name in mapping.theirs if (part := find(name)) is not None]
        if len(parts) == len(mapping.theirs):
            whole = torch.cat([part.T if mapping.transposed else part for part in parts])
            named[mapping.ours] = whole.float().contiguous()
    return named


def names_of(architecture: Architecture, name: str) -> list[str]:
    """The names under which a checkpoint may hold the parameter `name` of the architecture."""
    module, _, kind = name.rpartition(".")
    tensorflow_name = f"{module}.{'gamma' if kind == 'weight' else 'beta'}"
    return [
        candidate.removeprefix(prefix)
        for candidate in (name, tensorflow_name)
        for prefix in ("", architecture.prefix)
    ]


def require(document: Mapping[str, Any], **expected: object) -> None:
    """Check that each key has the value, or one of a tuple of values, or is absent, which means the first.

    Raises:
        UsageError: a key has another value; fpm has no such network.
    """
    for key, values in expected.items():
        allowed = values if isinstance(values, tuple) else (values,)
        if document.get(key, allowed[0]) not in allowed:
            raise UsageError(
                f"config.json: {key} is {document[key]!r}; fpm supports {' or '.join(map(repr, allowed))}"
            )


def number(document: Mapping[str, Any], key: str, default: float | None = None) -> Any:
    """A number from config.json.

    Raises:
        DamagedError: it is absent and has no default, or is not a number.
    """
    value = document.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DamagedError(f"config.json: {key} is {value!r}, not a number")
    return value


def refuse_unless_pre_norm(config: ModelConfig, family: str) -> None:
    """Raises UsageError: transformers has no such network with post-norm or DeepNorm."""
    if config.norm_placement != "pre":
        raise UsageError(f"transformers has no {family} with model.norm_placement {config.norm_placement!r}")


def refuse_unless_square(config: ModelConfig, family: str) -> None:
    """Raises UsageError: in transformers the head size is always the hidden size over the number of heads."""
    if config.attention_size != config.hidden_size:
        raise UsageError(
            f"transformers has no {family} whose heads ({config.num_heads} x {config.head_size}) do not add "
            f"up to the hidden size {config.hidden_size}"
        )
