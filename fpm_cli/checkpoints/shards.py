"""The tensor files of a checkpoint: the shard that each rank writes, and any other partition read from them.

The optimizer inside each DeepSpeed engine steps flat tensors, here called flat partitions: a whole parameter
under ZeRO 0, a partition of many parameters under ZeRO 1 to 3. A rank writes the flat partitions that it owns
as they are, and beside them a list of parameter slices, which says where in them each parameter lies. From
these lists another number of ranks, or another ZeRO stage, finds what it needs in the same files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)
from torch import Tensor

from fpm_cli.checkpoints.tensor_file import TensorFile, safetensors_chunks
from fpm_cli.errors import DamagedError
from fpm_cli.files import LOCAL_DISK, Disk, FileFacts, hash_file, replace_file, write_file
from fpm_cli.frozen import Frozen
from fpm_cli.models.renamed_parameters import current_parameter_name

WEIGHTS, OPTIMIZER = "weights", "optimizer"
MAX_JSON_BYTES = 2**28
Document = TypeVar("Document", bound=BaseModel)
ParameterName = Annotated[str, AfterValidator(current_parameter_name)]  # old checkpoints: the current name


class ParameterSlice(Frozen):
    """`num_elements` of a flattened parameter, and where they lie in a flat partition.

    The aliases are the keys in `rank-R.json`.
    """

    model_config = ConfigDict(populate_by_name=True)

    partition: str = Field(alias="leaf")
    partition_offset: NonNegativeInt = Field(alias="start")
    parameter: ParameterName = Field(alias="name")
    parameter_offset: NonNegativeInt = Field(alias="offset")
    num_elements: PositiveInt = Field(alias="length")

    @classmethod
    def whole(cls, name: str, num_elements: int) -> "ParameterSlice":
        """A parameter that is a flat partition of its own."""
        return cls(
            partition=name, partition_offset=0, parameter=name, parameter_offset=0, num_elements=num_elements
        )


@dataclass(frozen=True)
class Shard:
    """What one rank writes: its flat partitions, and which parameters lie in them."""

    weights: Mapping[str, Tensor]  # partition -> fp32 master weights, flat
    optimizer_states: Mapping[str, Tensor]  # KEY/PARTITION -> the optimizer's state, of the same length
    slices: tuple[ParameterSlice, ...]


class RankFile(Frozen):
    """`rank-R.json`, which is written last: once it is there, the rank's tensor files are complete."""

    model_config = ConfigDict(populate_by_name=True)

    files: dict[str, FileFacts]
    slices: tuple[ParameterSlice, ...] = Field(alias="stretches")


def write_shard(folder: Path, rank: int, shard: Shard, disk: Disk = LOCAL_DISK) -> None:
    """Write `weights-R.safetensors`, `optimizer-R.safetensors`, and then `rank-R.json`.

    Raises:
        OSError: a file could not be written.
        DivergedError: a number is not finite.
    """
    tensors = {WEIGHTS: shard.weights, OPTIMIZER: shard.optimizer_states}
    files = {
        name: write_file(folder / name, safetensors_chunks(content), disk)
        for kind, content in tensors.items()
        if content
        for name in (f"{kind}-{rank}.safetensors",)
    }
    document = RankFile(files=files, slices=shard.slices)
    content = document.model_dump_json(by_alias=True).encode()
    replace_file(folder / rank_file_name(rank), content, disk, sync_name=False)


def rank_file_name(rank: int) -> str:
    """The name of the file that describes one rank's tensor files."""
    return f"rank-{rank}.json"


def read_shard_facts(folder: Path, rank: int) -> dict[str, FileFacts] | None:
    """The facts of every file that a rank wrote, or None while it is still writing."""
    path = folder / rank_file_name(rank)
    if not path.exists():
        return None
    return {**read_document(path, RankFile).files, path.name: hash_file(path)}


def read_slices(
    folder: Path,
    kind: str,
    wanted: Mapping[str, tuple[int, int]],
    target: Callable[[str, str], Tensor],
) -> None:
    """Copy the wanted elements of each parameter out of the files of all ranks that have some of them.

    Args:
        folder: a checkpoint whose files have been compared with its manifest.
        kind: WEIGHTS or OPTIMIZER.
        wanted: parameter -> (offset, number of elements) in its flattened form.
        target: (parameter, key) -> the flat tensor to fill, of that many elements; the key is "" for weights,
            and for optimizer states the optimizer's own name of the state, such as `exp_avg`.

    Raises:
        DamagedError: an element is in none of the files, or a file contradicts its `rank-R.json`.
    """
    num_read = dict.fromkeys(wanted, 0)
    for path in sorted(folder.glob("rank-*.json")):
        slices = [part for part in read_document(path, RankFile).slices if _overlap(part, wanted)]
        if not slices:
            continue
        tensors = folder / f"{kind}-{path.stem.removeprefix('rank-')}.safetensors"
        try:
            with TensorFile(tensors) as file:
                prefixes = [f"{key}/" for key in _state_keys(file.names)] if kind == OPTIMIZER else [""]
                for part in slices:
                    overlap = _overlap(part, wanted)
                    source = part.partition_offset + overlap.start - part.parameter_offset
                    begin = overlap.start - wanted[part.parameter][0]
                    for prefix in prefixes:
                        flat = target(part.parameter, prefix[:-1])
                        file.read_into(prefix + part.partition, source, flat[begin : begin + len(overlap)])
                    num_read[part.parameter] += len(overlap)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{tensors}: not what {path.name} describes ({error})") from error
    for name, (_, num_elements) in wanted.items():
        if num_read[name] != num_elements:
            raise DamagedError(f"{folder} has {num_read[name]:,} of {num_elements:,} elements of {name}")


def read_document(path: Path, kind: type[Document]) -> Document:
    """Read a JSON file of a checkpoint.

    Raises:
        DamagedError: it is missing, too large, a link, or not a valid document of this kind.
    """
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:
            raise DamagedError(f"{path}: missing, or no file of a checkpoint")
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise DamagedError(f"{path}: {reason}") from error


def _overlap(part: ParameterSlice, wanted: Mapping[str, tuple[int, int]]) -> range:
    """The elements of the parameter that are both in the slice and wanted."""
    offset, num_elements = wanted.get(part.parameter, (0, 0))
    end = part.parameter_offset + part.num_elements
    return range(max(part.parameter_offset, offset), min(end, offset + num_elements))


def _state_keys(names: list[str]) -> list[str]:
    return sorted({name.partition("/")[0] for name in names})
