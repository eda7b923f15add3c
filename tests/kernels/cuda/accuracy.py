"""How close a result has to be: at most twice as far from float64 as PyTorch in the same precision."""

import torch
from torch import Tensor

FACTOR = 2.0


def assert_as_accurate(result: Tensor, exact: Tensor, composition: Tensor, name: str = "") -> None:
    """Compare errors in the 2-norm.

    Args:
        result: what is checked.
        exact: the float64 reference.
        composition: PyTorch's operators in `result`'s precision.
        name: for the message.
    """
    assert result.shape == exact.shape, f"{name}: {tuple(result.shape)}, expected {tuple(exact.shape)}"
    assert result.dtype == composition.dtype
    error, allowed = (torch.linalg.vector_norm(x.double() - exact).item() for x in (result, composition))
    rounding = torch.finfo(result.dtype).eps * torch.linalg.vector_norm(exact).item() / 2
    floor = torch.finfo(result.dtype).smallest_normal
    assert error <= FACTOR * allowed + rounding + floor, f"{name}: error {error:.3g}, PyTorch's {allowed:.3g}"
