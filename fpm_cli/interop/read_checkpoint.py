"""Reads a folder that transformers' `save_pretrained` wrote: config.json and the safetensors beside it."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.foreign import parse_json, read_whole

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"  # of peft; transformers would load the base model that it names
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_config_json(folder: Path) -> dict[str, Any]:
    """config.json of a model whose weights stand in the folder as they are.

    Raises:
        MissingError: it is not there.
        DamagedError: it is not a JSON object.
        UsageError: the folder holds an adapter, or quantised weights.
    """
    if (folder / ADAPTER).exists():
        raise UsageError(f"{folder} holds an adapter; merge it into its base model first")
    document = read_json(folder / "config.json")
    if (quantization := document.get("quantization_config")) is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise UsageError(
            f"{folder}: the weights are quantised ({method or 'quantization_config'} in config.json); "
            "fpm imports floating-point weights only"
        )
    return document


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of model.safetensors, or of the shards that its index names.

    Raises:
        MissingError: there are none, or a shard is not there.
        UsageError: there are only pickled ones.
        DamagedError: a file is not what its name says.
    """
    names = _file_names(folder)
    for name in names:
        if not (folder / name).is_file():
            _raise_missing(folder, name)
    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            weights |= load_file(folder / name)
        except SafetensorError as error:
            raise DamagedError(f"{folder / name}: {error}") from error
    return weights


def _file_names(folder: Path) -> list[str]:
    if not (folder / INDEX).is_file():
        return [WEIGHTS]
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise DamagedError(f"{folder / INDEX}: it maps no tensors to shards")
    names = sorted(set(index.values()))
    if any(Path(name).name != name or "\0" in name for name in names):
        raise DamagedError(f"{folder / INDEX}: a shard lies outside the folder")
    return names


def _raise_missing(folder: Path, name: str) -> None:
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise UsageError(
            f"{folder} has pickled weights only ({', '.join(pickles)}), and loading a pickle runs the code "
            "in it, which fpm never does. Use a safetensors version, or convert them in a place you trust: "
            "transformers' save_pretrained writes safetensors"
        )
    raise MissingError(f"{folder / name} is not there")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that somebody else wrote.

    Raises:
        MissingError: the file is not there.
        DamagedError: it is not a JSON object.
    """
    try:
        document = parse_json(read_whole(path))
    except FileNotFoundError:
        raise MissingError(f"{path} is not there") from None
    except ValueError as error:
        raise DamagedError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise DamagedError(f"{path}: not a JSON object")
    return document
