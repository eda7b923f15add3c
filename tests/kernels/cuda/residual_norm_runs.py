"""Inputs of residual_norm and what the emulated CUDA kernels make of them."""

import torch
from torch import Tensor

from tests.kernels.cuda.emulated import TYPE_NUMBERS, Emulator, structure_of, unwritten

FORWARD = structure_of("residual_norm/cuda.h", "ResidualNormArguments")
BACKWARD = structure_of("residual_norm/cuda.h", "ResidualNormBackwardArguments")


def inputs(rows: int, width: int, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    matrices = ("x", "y", "grad_sum", "grad_normed")
    vectors = ("bias", "weight", "norm_bias")
    shapes = dict.fromkeys(matrices, (rows, width)) | dict.fromkeys(vectors, (width,))
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def numbers(rows: int, width: int, dtype: torch.dtype, *, rms: bool = False, dropout: float = 0.0) -> dict:
    return {
        "type": TYPE_NUMBERS[dtype],
        "rows": rows,
        "width": width,
        "alpha": 1.25,
        "dropout": dropout,
        "seed": 2**40 + 5,
        "stream": 42,
        "rms": rms,
    }


def computed(
    emulator: Emulator,
    given: dict[str, Tensor | None],
    settings: dict,
    *,
    order: str = "forward",
    shift: int = 0,
) -> dict[str, Tensor]:
    """All outputs and gradients by the CUDA kernels; without `weight` the sum alone, without `y` the norm."""
    x = given["x"]
    assert x is not None
    rows, width = x.shape

    names = ("x", "y", "bias", "weight", "norm_bias")
    has_norm, has_sum = given["weight"] is not None, given["y"] is not None
    tensors = {name: given[name] for name in names} | {
        "sum": unwritten(x) if has_sum else None,
        "normed": unwritten(x) if has_norm else None,
        "stats": torch.full((rows, 2), torch.nan) if has_norm else None,
    }
    arguments = FORWARD(eps=1e-5, **settings)
    forward = emulator.call("fpm_cuda_residual_norm", arguments, tensors, order=order, shift=shift)
    tensors = {"sum": forward.get("sum", x) if has_norm else None, "stats": forward.get("stats")}
    tensors |= {name: given[name] for name in ("grad_sum", "grad_normed", "weight")}
    tensors |= {f"grad_{name}": unwritten(y) for name in names if (y := given[name]) is not None}
    tensors["workspace"] = torch.full((rows, 3, width), torch.nan)
    backward = emulator.call(
        "fpm_cuda_residual_norm_backward", BACKWARD(**settings), tensors, order=order, shift=shift
    )
    return {name: forward[name] for name in ("sum", "normed") if name in forward} | {
        f"grad_{name}": backward[f"grad_{name}"] for name in names if given[name] is not None
    }
