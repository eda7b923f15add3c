"""kernels/bias_gelu/cuda.cu, run on the CPU, against PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.cuda.accuracy import assert_all_as_accurate
from tests.kernels.cuda.conftest import BuildEmulator
from tests.kernels.cuda.emulated import TYPE_NUMBERS, Emulator, structure_of, unwritten

BIAS_GELU = structure_of("bias_gelu/cuda.h", "BiasGeluArguments")
GATED_GELU = structure_of("bias_gelu/cuda.h", "GatedGeluArguments")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One and more strips of columns, one and more chunks of rows, widths in and out of step with 16 bytes.
SHAPES = [(1, 1), (5, 64), (3, 131), (35, 257), (70, 33)]


@pytest.fixture(scope="module")
def emulator(emulate: BuildEmulator) -> Emulator:
    return emulate("bias_gelu/cuda.cu")


def normal(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def bias_gelu(
    emulator: Emulator, x: Tensor, bias: Tensor | None, grad: Tensor, tanh: bool, **options
) -> dict[str, Tensor]:
    rows, width = x.shape
    arguments = BIAS_GELU(
        type=TYPE_NUMBERS[x.dtype], rows=rows, width=width, tanh=tanh, x_stride=x.stride(0) if rows else width
    )
    tensors = {"x": x, "bias": bias, "out": unwritten(grad)}
    out = emulator.call("fpm_cuda_bias_gelu", arguments, tensors, **options)["out"]
    tensors = {"x": x, "bias": bias, "grad": grad, "grad_x": unwritten(grad)}
    if bias is not None:
        workspace = torch.full((max(1, rows), width), torch.nan)
        tensors |= {"grad_bias": unwritten(bias), "workspace": workspace}
    result = emulator.call("fpm_cuda_bias_gelu_backward", arguments, tensors, **options)
    return {"out": out} | {name: result[name] for name in ("grad_x", "grad_bias") if name in result}


def gated_gelu(
    emulator: Emulator, gate: Tensor, up: Tensor, grad: Tensor, tanh: bool, **options
) -> dict[str, Tensor]:
    """Gate and up may be views; their gradients get the same strides."""
    rows, width = gate.shape
    arguments = GATED_GELU(
        type=TYPE_NUMBERS[gate.dtype],
        rows=rows,
        width=width,
        tanh=tanh,
        gate_stride=gate.stride(0),
        up_stride=up.stride(0),
        grad_gate_stride=gate.stride(0),
        grad_up_stride=up.stride(0),
    )
    tensors = {"gate": gate, "up": up, "out": unwritten(grad)}
    out = emulator.call("fpm_cuda_gated_gelu", arguments, tensors, **options)["out"]
    tensors = {"gate": gate, "up": up, "grad": grad}
    tensors |= {"grad_gate": unwritten(gate), "grad_up": unwritten(up)}
    result = emulator.call("fpm_cuda_gated_gelu_backward", arguments, tensors, **options)
    return {"out": out, "grad_gate": result["grad_gate"], "grad_up": result["grad_up"]}


def expected_bias_gelu(
    x: Tensor, bias: Tensor | None, grad: Tensor, tanh: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    x = x.detach().clone().to(dtype).requires_grad_()
    bias = None if bias is None else bias.clone().to(dtype).requires_grad_()
    out = F.gelu(x if bias is None else x + bias, approximate="tanh" if tanh else "none")
    out.backward(grad.to(dtype))
    gradients = {"grad_x": x.grad} | ({} if bias is None else {"grad_bias": bias.grad})
    return {"out": out.detach(), **gradients}


def expected_gated_gelu(
    gate: Tensor, up: Tensor, grad: Tensor, tanh: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    gate, up = (x.detach().clone().to(dtype).requires_grad_() for x in (gate, up))
    out = F.gelu(gate, approximate="tanh" if tanh else "none") * up
    out.backward(grad.to(dtype))
    return {"out": out.detach(), "grad_gate": gate.grad, "grad_up": up.grad}


@pytest.mark.parametrize("tanh", [False, True], ids=["erf", "tanh"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_both_are_as_accurate_as_pytorch(
    emulator: Emulator, rows: int, width: int, dtype: torch.dtype, tanh: bool
) -> None:
    x, up, grad = (normal(rows, width, dtype=dtype, seed=seed) for seed in range(3))
    bias = normal(width, dtype=dtype, seed=3)
    pairs = [
        (bias_gelu(emulator, x, bias, grad, tanh), expected_bias_gelu, (x, bias)),
        (gated_gelu(emulator, x, up, grad, tanh), expected_gated_gelu, (x, up)),
    ]
    for result, reference, given in pairs:
        exact = reference(*given, grad, tanh, torch.float64)
        composition = reference(*given, grad, tanh, dtype)
        assert result.keys() == exact.keys()
        assert_all_as_accurate(result, exact, composition)


def test_without_a_bias_and_for_rows_apart(emulator: Emulator) -> None:
    x = normal(6, 80, dtype=torch.float32, seed=0)[:, 8:72]
    grad = normal(6, 64, dtype=torch.float32, seed=1)
    result = bias_gelu(emulator, x, None, grad, False)
    exact = expected_bias_gelu(x, None, grad, False, torch.float64)
    composition = expected_bias_gelu(x, None, grad, False, torch.float32)
    assert result.keys() == exact.keys()
    assert_all_as_accurate(result, exact, composition)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gate_and_up_may_be_halves_of_one_projection(emulator: Emulator, dtype: torch.dtype) -> None:
    gate, up = normal(9, 2 * 72, dtype=dtype, seed=0).chunk(2, dim=1)
    grad = normal(9, 72, dtype=dtype, seed=1)
    result = gated_gelu(emulator, gate, up, grad, True)
    exact = expected_gated_gelu(gate, up, grad, True, torch.float64)
    composition = expected_gated_gelu(gate, up, grad, True, dtype)
    assert_all_as_accurate(result, exact, composition)


def test_more_rows_than_chunks_hold_at_least(emulator: Emulator) -> None:
    x, grad = (normal(4200, 3, dtype=torch.float32, seed=seed) for seed in range(2))
    bias = normal(3, dtype=torch.float32, seed=2)
    result = bias_gelu(emulator, x, bias, grad, False)
    exact = expected_bias_gelu(x, bias, grad, False, torch.float64)
    composition = expected_bias_gelu(x, bias, grad, False, torch.float32)
    assert_all_as_accurate(result, exact, composition)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_for_any_order_of_threads_and_any_alignment(emulator: Emulator, dtype: torch.dtype) -> None:
    x, grad = (normal(70, 136, dtype=dtype, seed=seed) for seed in range(2))
    bias = normal(136, dtype=dtype, seed=2)
    first = bias_gelu(emulator, x, bias, grad, True)
    for variant in ({"order": "reverse"}, {"order": "7"}, {"shift": 4}):
        other = bias_gelu(emulator, x, bias, grad, True, **variant)
        for name, tensor in first.items():
            assert torch.equal(tensor, other[name]), f"{name} differs with {variant}"


def test_values_far_out_and_not_finite(emulator: Emulator) -> None:
    x = torch.tensor([[-torch.inf, -100.0, -6.0, 0.0, 6.0, 100.0, torch.inf, torch.nan]])
    grad, bias = torch.ones(1, 8), torch.zeros(8)
    for tanh in (False, True):
        result = bias_gelu(emulator, x, bias, grad, tanh)
        exact = expected_bias_gelu(x, bias, grad, tanh, torch.float32)
        finite = slice(1, 6)
        torch.testing.assert_close(result["out"][0, finite], exact["out"][0, finite], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(
            result["grad_x"][0, finite], exact["grad_x"][0, finite], rtol=1e-4, atol=1e-7
        )
        assert result["out"][0, 6] == torch.inf and result["out"][0, 7].isnan()


def test_no_rows_give_a_zero_gradient_of_the_bias(emulator: Emulator) -> None:
    empty = torch.zeros(0, 16)
    result = bias_gelu(emulator, empty, torch.ones(16), empty, False)
    assert torch.equal(result["grad_bias"], torch.zeros(16))
