"""Configuration precedence, parsed once at the edge: built-in defaults < preset < `--proxy` <
`--config FILE` < `FPM_SECTION__KEY` environment < `--set a.b=v`; and the origin of each resolved value.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fpm_cli.config.deepspeed_options import read_deepspeed_json
from fpm_cli.config.presets import Tree, preset_layers, read_toml
from fpm_cli.config.proxy import proxy_layer
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import MissingError, UsageError, did_you_mean

ENVIRONMENT_PREFIX, LEVEL = "FPM_", "__"


@dataclass(frozen=True)
class Resolved:
    """A validated configuration and, for each dotted key that some layer set, which layer did."""

    config: RunConfig
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        """The layer that set `key` (dotted, for example `train.lr`), or the built-in default."""
        return self.origins.get(key, "built-in default")


def resolve(
    preset: str,
    *,
    proxy: bool = False,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
) -> Resolved:
    """Merge every layer over the preset and validate the result.

    Raises:
        UsageError: an unknown preset or key, a value of the wrong type or range; names the layer.
        MissingError: `config_file` is not there.
    """
    layers = preset_layers(preset)
    if proxy:
        plain, _ = _merge(layers)
        layers.append(("--proxy", proxy_layer(validate(plain, {}))))
    layers.extend(_file_layer(config_file))
    layers.extend(_environment_layers(os.environ if environment is None else environment))
    layers.extend((f"--set {text}", _assignment(text)) for text in assignments)
    tree, origins = _merge(layers)
    return Resolved(validate(tree, origins), origins)


def reconfigure(
    stored: RunConfig,
    *,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """A stored configuration with a file, an environment and `--set` over it.

    A resumed run takes no `environment`: it was read when the run was created.

    Raises:
        UsageError, MissingError: as `resolve`.
    """
    layers = [("config.toml", stored.model_dump(mode="json", exclude_none=True)), *_file_layer(config_file)]
    layers.extend(_environment_layers(environment or {}))
    layers.extend((f"--set {text}", _assignment(text)) for text in assignments)
    return validate(*_merge(layers))


def difference(before: RunConfig, after: RunConfig) -> str:
    """Every value in which two configurations differ, by its dotted key; empty if they are equal."""
    old, new = dict(flatten(before)), dict(flatten(after))
    keys = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {old.get(key)} and is now {new.get(key)}" for key in sorted(keys))


def flatten(config: RunConfig) -> list[tuple[str, Any]]:
    """Every value of a configuration with its dotted key, in the schema's order."""

    def walk(tree: Tree, prefix: str) -> list[tuple[str, Any]]:
        pairs: list[tuple[str, Any]] = []
        for key, value in tree.items():
            pairs += walk(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
        return pairs

    return walk(config.model_dump(mode="json"), "")


def validate(tree: Tree, origins: Mapping[str, str]) -> RunConfig:
    """Turn a merged tree into a `RunConfig`; the error names key, origin and the likely mend."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(problem, origins) for problem in error.errors())) from error


def _explain(problem: Any, origins: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    origin = next((o for k, o in origins.items() if k == key or k.startswith(f"{key}.")), None)
    where = f"{key} (from {origin})" if origin else key
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such key{did_you_mean(key, _known_keys(RunConfig))}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    value = problem.get("input")
    got = "" if isinstance(value, dict | BaseModel) or problem["type"] == "missing" else f", got {value!r}"
    return f"{where}: {message}{got}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys.extend(_known_keys(kind, f"{prefix}{name}."))
    return keys


def _merge(layers: Sequence[tuple[str, Tree]]) -> tuple[Tree, dict[str, str]]:
    tree: Tree = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        _overlay(tree, _with_deepspeed_read(layer), origin, origins, "")
    return tree, origins


def _overlay(tree: Tree, layer: Tree, origin: str, origins: dict[str, str], prefix: str) -> None:
    for name, value in layer.items():
        key = prefix + name
        if isinstance(value, dict):
            below = tree.setdefault(name, {})
            if not isinstance(below, dict):
                raise UsageError(f"{key} (from {origin}): a table where a value belongs")
            _overlay(below, value, origin, origins, f"{key}.")
        else:
            tree[name] = value
            origins[key] = origin


def _file_layer(config_file: Path | None) -> list[tuple[str, Tree]]:
    if config_file is None:
        return []
    try:
        layer = read_toml(config_file)
    except FileNotFoundError as error:
        raise MissingError(f"--config {config_file}: no such file") from error
    if "deepspeed" in layer:  # DeepSpeed's options may have a table of their own
        engine = layer.setdefault("engine", {})
        if "deepspeed" in engine:
            raise UsageError(f"{config_file}: deepspeed and engine.deepspeed are the same table; keep one")
        engine["deepspeed"] = layer.pop("deepspeed")
    return [(str(config_file), layer)]


def _with_deepspeed_read(layer: Tree) -> Tree:
    """A layer in which `engine.deepspeed` is a table; a text there names a JSON file."""
    engine = layer.get("engine")
    if not isinstance(engine, dict) or not isinstance(engine.get("deepspeed"), str):
        return layer
    return {**layer, "engine": {**engine, "deepspeed": read_deepspeed_json(Path(engine["deepspeed"]))}}


def _environment_layers(environment: Mapping[str, str]) -> list[tuple[str, Tree]]:
    """`FPM_TRAIN__LR=1e-4` sets `train.lr`: two underscores stand for the dot.

    Names without two underscores are not fpm's: `FPM_FC` and others belong to the Fortran package manager.
    """
    layers = []
    for name in sorted(environment):
        path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split(LEVEL)
        if name.startswith(ENVIRONMENT_PREFIX) and len(path) > 1:
            layers.append((name, _nested(path, _value(environment[name]))))
    return layers


def _assignment(text: str) -> Tree:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: write it as key=value, for example --set train.lr=1e-4")
    return _nested(key.strip().split("."), _value(value))


def _nested(path: Sequence[str], value: Any) -> Tree:
    return {path[0]: value if len(path) == 1 else _nested(path[1:], value)}


def _value(text: str) -> Any:
    """A TOML value where it is one (number, boolean, list), else the text itself."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
