"""kernels/dropout/cuda.cu, run on the CPU, against the counter-based random numbers in PyTorch."""

import pytest
import torch

from fpm_cli.kernels.common.philox import dropout_mask
from tests.kernels.cuda.conftest import BuildEmulator
from tests.kernels.cuda.emulated import TYPE_NUMBERS, structure_of, unwritten

ARGUMENTS = structure_of("dropout/cuda.h", "DropoutArguments")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("count", [1, 4, 1023, 3000])
@pytest.mark.parametrize("shift", [0, 4])
def test_drops_what_the_counter_says(
    emulate: BuildEmulator, count: int, dtype: torch.dtype, shift: int
) -> None:
    x = torch.randn(count, generator=torch.Generator().manual_seed(0)).to(dtype)
    arguments = ARGUMENTS(type=TYPE_NUMBERS[dtype], count=count, dropout=0.3, seed=2**62 + 3, stream=10)
    tensors = {"x": x, "out": unwritten(x)}
    out = emulate("dropout/cuda.cu").call("fpm_cuda_dropout", arguments, tensors, shift=shift)["out"]
    keep = dropout_mask(torch.arange((count + 3) // 4 * 4), 0.3, 2**62 + 3, 10)[:count]
    assert torch.equal(out != 0, keep)
    torch.testing.assert_close(out, x * keep / 0.7)
