"""Facts of a whole parameter, also where ZeRO 3 has partitioned it and left an empty vector in its place."""

from torch import Tensor


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """The parameter's own shape."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
