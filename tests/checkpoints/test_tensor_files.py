"""Large tensors are written, checked and hashed in chunks."""

from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

from fpm_cli import files
from fpm_cli.checkpoints import tensor_file
from fpm_cli.checkpoints.shards import WEIGHTS, ParameterSlice, Shard, read_slices, write_shard
from fpm_cli.checkpoints.tensor_file import TensorFile, safetensors_chunks
from fpm_cli.errors import DivergedError
from fpm_cli.files import Disk, write_file

PIECE_BYTES = 1 << 16
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Watched(Disk):
    """Remembers from where the disk was told to begin."""

    def __init__(self) -> None:
        self.begun: list[int] = []

    def write_back(self, descriptor: int, start: int) -> None:
        self.begun.append(start)
        super().write_back(descriptor, start)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (files, tensor_file):
        monkeypatch.setattr(module, "CHUNK_BYTES", PIECE_BYTES)


def test_a_file_of_many_pieces_is_what_safetensors_reads_and_has_the_hash_of_its_bytes(
    tmp_path: Path,
) -> None:
    tensors = {str(dtype): torch.randn(100_003).to(dtype) for dtype in DTYPES}
    path, disk = tmp_path / "file", Watched()
    facts = write_file(path, safetensors_chunks(tensors), disk)
    read = load_file(path)
    assert all(read[name].equal(tensor) for name, tensor in tensors.items())
    whole = path.read_bytes()
    assert (facts.bytes, facts.xxh3_128) == (len(whole), xxhash.xxh3_128(whole).hexdigest())
    assert disk.begun[0] == 0
    steps = [b - a for a, b in zip(disk.begun, [*disk.begun[1:], facts.bytes], strict=True)]
    assert len(steps) > 10
    assert max(steps) < 3 * PIECE_BYTES


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_number_that_is_not_finite_is_found_in_any_piece(dtype: torch.dtype, value: float) -> None:
    for place in (0, 50_000, 100_002):
        tensor = torch.ones(100_003, dtype=dtype)
        tensor[place] = value
        with pytest.raises(DivergedError, match=r"not finite \(w\)"):
            list(safetensors_chunks({"w": tensor}))


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("stored", DTYPES)
def test_any_part_of_a_file_of_safetensors_is_read_into_any_type(
    stored: torch.dtype, target: torch.dtype, tmp_path: Path
) -> None:
    tensors = {"a": torch.randn(7).to(stored), "b": torch.randn(50_003).to(stored)}
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    with TensorFile(tmp_path / "file") as file:
        for name, start, count in (("a", 0, 7), ("b", 0, 50_003), ("b", 49_000, 1_003), ("b", 50_003, 0)):
            read = torch.empty(count, dtype=target)
            file.read_into(name, start, read)
            assert read.equal(tensors[name][start : start + count].to(target))


@pytest.mark.parametrize(("name", "start", "count"), [("a", 0, 8), ("a", 7, 1), ("a", -1, 2), ("c", 0, 1)])
def test_elements_that_a_file_does_not_have_are_refused(
    name: str, start: int, count: int, tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(7), "b": torch.zeros(7)}, tmp_path / "file")
    with TensorFile(tmp_path / "file") as file, pytest.raises(ValueError, match="elements"):
        file.read_into(name, start, torch.empty(count))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": 1} ',
        (60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}      ',
    ],
)
def test_what_is_no_tensor_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        TensorFile(tmp_path / "file")


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1_000)}, tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(whole[:-4])
    with TensorFile(tmp_path / "file") as file, pytest.raises(ValueError, match="ends too early"):
        file.read_into("a", 0, torch.empty(1_000))


def test_another_number_of_ranks_reads_its_share_of_each_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.randn(3 * PIECE_BYTES)
    for rank in (0, 1):
        half = whole.chunk(2)[rank]
        part = ParameterSlice(
            partition="group-0",
            partition_offset=0,
            parameter="w",
            parameter_offset=rank * len(half),
            num_elements=len(half),
        )
        write_shard(tmp_path, rank, Shard({"group-0": half}, {}, (part,)))
    num_read, read_into = [], TensorFile.read_into

    def counted(file: TensorFile, name: str, start: int, target: torch.Tensor) -> None:
        num_read.append(target.numel())
        read_into(file, name, start, target)

    monkeypatch.setattr(TensorFile, "read_into", counted)
    third = len(whole) // 3
    for rank in range(3):
        share = torch.empty(third)
        read_slices(tmp_path, WEIGHTS, {"w": (rank * third, third)}, lambda _, key, to=share: to)
        assert share.equal(whole[rank * third : (rank + 1) * third])
    assert sum(num_read) == len(whole)
