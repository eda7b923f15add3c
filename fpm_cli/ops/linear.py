"""The matrix products of linear layers, without autograd, for functions that span several operators.

The rule: fpm's own kernels (`kernels/linear`) multiply float32 matrices on a CPU where both sizes of the
weight are multiples of 16 and the weight has at most 2^19 elements. They are faster there than MKL, which
torch calls (`kernels/linear/README.md`). Everything else is torch's.
"""

import torch
from torch import Tensor

from fpm_cli.ops.schemas import LINEAR, LINEAR_INPUT_GRAD, LINEAR_WEIGHT_GRAD

MULTIPLE = 16
MAX_ELEMENTS = 2**19


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias: x (T, I), weight (O, I), bias (O,) -> (T, O)."""
    if _is_ours(weight):
        return LINEAR(x, weight, bias)  # type: ignore[no-any-return]
    return torch.mm(x, weight.t()) if bias is None else torch.addmm(bias, x, weight.t())


def linear_input_grad(grad: Tensor, weight: Tensor, added: Tensor | None = None) -> Tensor:
    """grad weight + added: grad (T, O), weight (O, I), added (T, I), may be overwritten -> (T, I)."""
    if _is_ours(weight):
        return LINEAR_INPUT_GRAD(grad, weight, added)  # type: ignore[no-any-return]
    return torch.mm(grad, weight) if added is None else added.addmm_(grad, weight)


def linear_weight_grad(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """grad^T x: grad (T, O), x (T, I) -> (O, I), the shape of the weight."""
    if _is_ours(weight):
        return LINEAR_WEIGHT_GRAD(grad, x)  # type: ignore[no-any-return]
    return torch.mm(grad.t(), x)


def _is_ours(weight: Tensor) -> bool:
    outputs, inputs = weight.shape
    return (
        outputs * inputs <= MAX_ELEMENTS
        and not (outputs % MULTIPLE or inputs % MULTIPLE)
        and weight.dtype is torch.float32
        and weight.is_cpu
    )
