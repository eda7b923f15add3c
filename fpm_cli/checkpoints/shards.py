"""The tensor files of a checkpoint: each rank's share of every parameter, and any other share out of them.

The inner optimizer of each DeepSpeed engine steps flat tensors, its "leaves": a whole parameter under
ZeRO 0, a partition of many parameters under ZeRO 1 to 3. A rank writes the leaves it owns as they are,
and beside them a map of stretches: these elements of this leaf are those of that parameter. With the
maps, another number of ranks or another ZeRO stage reads what it needs from the same files.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, NonNegativeInt, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fpm_cli.checkpoints.storage import CHUNK_BYTES, Disk, FileFacts, describe, put_file, write_file
from fpm_cli.config.schema import Frozen
from fpm_cli.errors import DamagedError, DivergedError

WEIGHTS, OPTIMIZER = "weights", "optimizer"
JSON_BYTES = 2**28  # a map of more is not ours
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
Document = TypeVar("Document", bound=BaseModel)


class Stretch(Frozen):
    """`length` elements of the flattened parameter `name` from `offset`, which `leaf` has from `start`."""

    leaf: str
    start: NonNegativeInt
    name: str
    offset: NonNegativeInt
    length: PositiveInt


@dataclass(frozen=True)
class Shard:
    """What one rank writes: its leaves, flat, and what lies where in them."""

    weights: Mapping[str, Tensor]  # leaf -> fp32 master weights
    moments: Mapping[str, Tensor]  # KEY/LEAF -> the optimizer's state of that leaf, of the same length
    stretches: tuple[Stretch, ...]


class RankFile(Frozen):
    """`rank-R.json`: written last, it says that the rank's tensor files are there, whole."""

    files: dict[str, FileFacts]
    stretches: tuple[Stretch, ...]


def write_shard(disk: Disk, folder: Path, rank: int, shard: Shard) -> None:
    """Write `weights-R.safetensors`, `optimizer-R.safetensors` and at last `rank-R.json`.

    Raises:
        OSError: they could not be written.
        DivergedError: a number is not finite.
    """
    tensors = {WEIGHTS: shard.weights, OPTIMIZER: shard.moments}
    files = {
        name: write_file(disk, folder / name, safetensors_chunks(content))
        for kind, content in tensors.items()
        if content
        for name in (f"{kind}-{rank}.safetensors",)
    }
    document = RankFile(files=files, stretches=shard.stretches)
    put_file(disk, folder / rank_file(rank), document.model_dump_json().encode())


def rank_file(rank: int) -> str:
    """The name of the map of one rank's files."""
    return f"rank-{rank}.json"


def shard_facts(folder: Path, rank: int) -> dict[str, FileFacts] | None:
    """What a rank wrote, or None while it still writes."""
    path = folder / rank_file(rank)
    if not path.exists():
        return None
    return {**read_document(path, RankFile).files, path.name: describe(path)}


def safetensors_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, tensor by tensor, so that nothing is held twice.

    Source: the format's own page, https://github.com/huggingface/safetensors#format.

    Raises:
        DivergedError: a number is not finite.
    """
    header: dict[str, Any] = {}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": [tensor.numel()],
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1).cpu()
        for piece in torch.split(flat, CHUNK_BYTES // flat.element_size()):
            if not _finite(piece):
                raise DivergedError(f"the state is not finite ({name}), so it is not saved")
            if piece.numel():
                yield piece.view(torch.uint8).numpy().data


def read_stretches(
    folder: Path,
    kind: str,
    wanted: Mapping[str, tuple[int, int]],
    target: Callable[[str, str], Tensor],
) -> None:
    """Copy the wanted elements of each parameter out of whichever ranks' files have them.

    Args:
        folder: a checkpoint whose files have matched its manifest.
        kind: WEIGHTS or OPTIMIZER.
        wanted: parameter -> (offset, length) in its flattened form.
        target: (parameter, key) -> the flat tensor of that length to fill; the key is "" for weights
            and the optimizer's own name of the state, such as `exp_avg`, for its.

    Raises:
        DamagedError: some element is in none of the files, or the files contradict their maps.
    """
    found = dict.fromkeys(wanted, 0)
    for path in sorted(folder.glob("rank-*.json")):
        stretches = [s for s in read_document(path, RankFile).stretches if _overlap(s, wanted)]
        if not stretches:
            continue
        tensors = folder / f"{kind}-{path.stem.removeprefix('rank-')}.safetensors"
        try:
            with safe_open(tensors, framework="pt") as file:
                prefixes = [f"{key}/" for key in _state_keys(file.keys())] if kind == OPTIMIZER else [""]
                for stretch in stretches:
                    both = _overlap(stretch, wanted)
                    start = stretch.start + both.start - stretch.offset
                    begin = both.start - wanted[stretch.name][0]
                    for prefix in prefixes:
                        values = file.get_slice(prefix + stretch.leaf)[start : start + len(both)]
                        target(stretch.name, prefix[:-1])[begin : begin + len(both)].copy_(values)
                    found[stretch.name] += len(both)
        except (SafetensorError, OSError, RuntimeError, IndexError) as error:
            raise DamagedError(f"{tensors}: not what {path.name} says ({error})") from error
    for name, (_, length) in wanted.items():
        if found[name] != length:
            raise DamagedError(f"{folder} has {found[name]:,} of {length:,} elements of {name}")


def read_document(path: Path, kind: type[Document]) -> Document:
    """A JSON file of the checkpoint, as what it must be.

    Raises:
        DamagedError: it is missing, too large, a link, or something else.
    """
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > JSON_BYTES:
            raise DamagedError(f"{path}: missing, or no file of a checkpoint")
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DamagedError(f"{path}: {said}") from error


def _overlap(stretch: Stretch, wanted: Mapping[str, tuple[int, int]]) -> range:
    """The elements of the parameter that are both in the stretch and wanted."""
    offset, length = wanted.get(stretch.name, (0, 0))
    return range(max(stretch.offset, offset), min(stretch.offset + stretch.length, offset + length))


def _state_keys(names: list[str]) -> list[str]:
    return sorted({name.partition("/")[0] for name in names})


def _finite(piece: Tensor) -> bool:
    """In this thread alone: on a busy machine torch's threads wait for one another at every small piece."""
    if piece.dtype is torch.bfloat16:  # which numpy does not have
        return bool(piece.isfinite().all())
    return bool(np.isfinite(piece.numpy()).all())
