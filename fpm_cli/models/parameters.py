"""Facts of a whole parameter, also where ZeRO 3 has partitioned it and left an empty vector in its place."""

import math

from torch import Tensor


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """The parameter's own shape."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def whole_numel(parameter: Tensor) -> int:
    """The number of elements of the whole parameter."""
    return math.prod(whole_shape(parameter))
