"""`torch.autograd.function.once_differentiable` at no cost where no graph of the gradients is built."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.autograd.function import once_differentiable as checked

Backward = Callable[..., Any]


def once_differentiable(backward: Backward) -> Backward:
    """Of an autograd function's `backward`: differentiating its gradients raises an error.

    torch's decorator examines every gradient, which takes a tenth of a call with small tensors. Only with
    `create_graph=True` are gradients enabled during a backward pass, so it is left out otherwise.
    """
    with_check: Backward = checked(backward)

    @wraps(backward)
    def wrapper(ctx: Any, *grads: Any) -> Any:
        return with_check(ctx, *grads) if torch.is_grad_enabled() else backward(ctx, *grads)

    return wrapper
