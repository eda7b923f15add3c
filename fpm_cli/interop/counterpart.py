"""What a family file says about its counterpart in transformers, and the two ways through its name map."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fpm_cli.config.schema import ModelConfig
from fpm_cli.errors import DamagedError, UsageError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """One of our tensors and what it is called there; several names: ours has them one below the other."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Counterpart:
    """The architecture in transformers that computes exactly what a network of ours computes."""

    architecture: str  # the class's name
    config: dict[str, Any]  # config.json
    pairs: tuple[Pair, ...]  # each of our parameters once
    prefix: str  # what the names begin with in a file with heads, and do not in one without


def pair(ours: str, *theirs: str, kinds: Iterable[str] = ("weight", "bias")) -> list[Pair]:
    """The pairs of a module's tensors, by the modules' names."""
    return [Pair(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs)) for kind in kinds]


def to_theirs(pairs: Iterable[Pair], state: Mapping[str, Tensor]) -> State:
    """Our tensors (weights, or gradients) under their names and in their shapes."""
    named: State = {}
    for each in pairs:
        parts = state[each.ours].chunk(len(each.theirs))
        for name, part in zip(each.theirs, parts, strict=True):
            named[name] = (part.T if each.transposed else part).contiguous()
    return named


def to_ours(counterpart: Counterpart, state: Mapping[str, Tensor]) -> State:
    """Their tensors under our names, in float32; what `state` lacks is left out, what is unknown ignored.

    The names may lack the prefix, as in a file that was saved without heads, and norms may have
    TensorFlow's `gamma` and `beta`, as the first BERTs do.
    """

    def find(name: str) -> Tensor | None:
        stem, _, kind = name.rpartition(".")
        old = f"{stem}.{'gamma' if kind == 'weight' else 'beta'}"
        known = (n.removeprefix(cut) for n in (name, old) for cut in ("", counterpart.prefix))
        return next((state[n] for n in known if n in state), None)

    named: State = {}
    for each in counterpart.pairs:
        parts = [part for name in each.theirs if (part := find(name)) is not None]
        if len(parts) == len(each.theirs):
            whole = torch.cat([part.T if each.transposed else part for part in parts])
            named[each.ours] = whole.float().contiguous()
    return named


def require(document: Mapping[str, Any], **expected: object) -> None:
    """Each key has the value, or one of a tuple of values, or is absent, which means the first.

    Raises:
        UsageError: another value; fpm has no such network.
    """
    for key, values in expected.items():
        allowed = values if isinstance(values, tuple) else (values,)
        if document.get(key, allowed[0]) not in allowed:
            raise UsageError(
                f"config.json: {key} is {document[key]!r}; fpm has {' or '.join(map(repr, allowed))} only"
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


def refuse_unless_pre_norm(config: ModelConfig, what: str) -> None:
    """Raises UsageError: transformers has no such network with post-norm or DeepNorm."""
    if config.norm_placement != "pre":
        raise UsageError(f"transformers has no {what} with model.norm_placement {config.norm_placement!r}")


def refuse_unless_square(config: ModelConfig, what: str) -> None:
    """Raises UsageError: there, heads split the hidden size, so their width is not a choice."""
    if config.attention_size != config.hidden_size:
        raise UsageError(
            f"transformers has no {what} whose heads ({config.num_heads} x {config.head_size}) do not add "
            f"up to the hidden size {config.hidden_size}"
        )
