"""A safetensors file of flat tensors: written in chunks, and read in part, straight into other tensors.

The safetensors library maps the file into memory, and every page that it reads counts as resident: a rank
that loads its share of a checkpoint would seem to need that much more memory. Here a part is read into its
target, through a buffer of CHUNK_BYTES where the target is on a GPU or has another type.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fpm_cli.errors import DivergedError
from fpm_cli.files import CHUNK_BYTES

MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_TYPES = {name: dtype for dtype, name in _DTYPES.items()}


def safetensors_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file in chunks, so that no tensor is held twice.

    Source: https://github.com/huggingface/safetensors#format.

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
            if not _is_finite(piece):
                raise DivergedError(f"the state is not finite ({name}), so it is not saved")
            if piece.numel():
                yield piece.view(torch.uint8).numpy().data


class TensorFile:
    """A safetensors file of flat tensors, open for reading.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """

    def __init__(self, path: Path):
        self._file = path.open("rb", buffering=0)
        try:
            self._read_header()
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            self._file.close()
            raise ValueError(f"no header of a safetensors file: {error}") from error
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        size = int.from_bytes(self._file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {size:,} bytes")
        header = json.loads(self._file.read(size))
        header.pop("__metadata__", None)
        self._first_byte = 8 + size
        self._tensors: dict[str, tuple[torch.dtype, int, int]] = {}  # type, first byte, number of elements
        for name, facts in header.items():
            dtype, (first, last) = _TYPES[facts["dtype"]], facts["data_offsets"]
            if facts["shape"] != [(last - first) // dtype.itemsize] or first < 0:
                raise ValueError(f"{name}: shape {facts['shape']} in bytes {first} to {last}")
            self._tensors[name] = dtype, first, facts["shape"][0]

    @property
    def names(self) -> list[str]:
        """Of its tensors."""
        return list(self._tensors)

    def read_into(self, name: str, start: int, target: Tensor) -> None:
        """Set `target`, flat and contiguous, to the elements from `start` on of a tensor of the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it does not have them.
        """
        dtype, first, num_elements = self._tensors.get(name, (torch.float32, 0, 0))
        if start < 0 or start + target.numel() > num_elements:
            raise ValueError(f"{name}: {num_elements:,} elements")
        self._file.seek(self._first_byte + first + start * dtype.itemsize)
        if target.device.type == "cpu" and target.dtype == dtype:
            self._read_bytes(target)
            return
        buffer = torch.empty(CHUNK_BYTES // dtype.itemsize, dtype=dtype)
        for part in torch.split(target, len(buffer)):
            read = buffer[: len(part)]
            self._read_bytes(read)
            part.copy_(read)

    def _read_bytes(self, target: Tensor) -> None:
        view: memoryview = target.detach().view(torch.uint8).numpy().data
        while view:
            num_bytes = self._file.readinto(view)
            if not num_bytes:
                raise ValueError("the file ends too early")
            view = view[num_bytes:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _is_finite(piece: Tensor) -> bool:
    """Computed by numpy in this thread: torch would split each small piece over its threads, which is slow
    on a busy machine.
    """
    if piece.dtype is torch.bfloat16:  # numpy has no such type
        return bool(piece.isfinite().all())
    return bool(np.isfinite(piece.numpy()).all())
