"""`fpm kernels bench`: both forms compute the same, and the numbers fit together."""

import pytest
import torch

from fpm_cli.errors import MissingError
from fpm_cli.ops.bench import Shape, cases, time_case
from fpm_cli.ops.build import build, default_folder
from fpm_cli.ops.selection import select


@pytest.fixture(autouse=True)
def built():
    try:
        build(default_folder(), say=lambda line: None)
    except MissingError as error:
        pytest.skip(str(error))
    select("auto")


@pytest.mark.parametrize("family", ["gpt", "bert", "encdec"])
def test_both_forms_give_gradients_of_the_same_shapes(family):
    for case in cases(Shape(family, 2, 12, 2, 8, 32)):
        ours, theirs = case.compiled(), case.composed()
        assert [x.shape for x in ours] == [x.shape for x in theirs]
        for our, their in zip(ours, theirs, strict=True):
            if "gelu" in case.operator:  # no dropout
                torch.testing.assert_close(our, their)
            else:
                assert 0.3 < our.std() / their.std() < 3


def test_ratio_and_bandwidth_follow_from_the_seconds():
    [case, *_] = cases(Shape("gpt", 1, 16, 2, 8, 32))
    timing = time_case(case, rounds=3, bandwidth=1e9)
    low, high = timing.ratio_quartiles
    assert 0 < low <= timing.ratio <= high
    assert timing.bandwidth_share == pytest.approx(case.num_bytes / timing.compiled_seconds / 1e9)
    assert case.num_bytes == 11 * 16 * 16 * 4
