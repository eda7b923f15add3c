"""Accuracy of results by name: each errs at most twice as much as PyTorch in the same precision."""

from torch import Tensor

from tests.operator_comparison import assert_as_accurate


def assert_all_as_accurate(
    result: dict[str, Tensor], exact: dict[str, Tensor], composition: dict[str, Tensor]
) -> None:
    """Compare the tensors of `result` that `exact` names, in float64, with PyTorch's in `composition`."""
    for name, expected in exact.items():
        try:
            assert_as_accurate([result[name]], [composition[name]], [expected])
        except AssertionError as error:
            error.add_note(name)
            raise
