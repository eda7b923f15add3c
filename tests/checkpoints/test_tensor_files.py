"""Large tensors are written, checked and hashed in chunks."""

from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file

from fpm_cli import files
from fpm_cli.checkpoints import shards
from fpm_cli.checkpoints.shards import safetensors_chunks
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
    for module in (files, shards):
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
