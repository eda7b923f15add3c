"""kernels/residual_norm/cuda.cu, run on the CPU, against PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fpm_cli.kernels.common.philox import dropout_mask
from tests.kernels.cuda.accuracy import assert_all_as_accurate
from tests.kernels.cuda.conftest import BuildEmulator
from tests.kernels.cuda.emulated import EmulationFailed, Emulator
from tests.kernels.cuda.residual_norm_runs import computed, inputs, numbers

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One warp, four warps and sixteen warps for a row; widths that are and are not multiples of four.
WIDTHS = [(5, 1), (6, 64), (9, 130), (3, 511), (5, 640), (2, 1023), (1, 4100), (2, 4501)]


@pytest.fixture(scope="module")
def emulator(emulate: BuildEmulator) -> Emulator:
    return emulate("residual_norm/cuda.cu")


def expected(given: dict[str, Tensor | None], settings: dict, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same by PyTorch and autograd in `dtype`."""
    names = ("x", "y", "bias", "weight", "norm_bias")
    leaves = {
        name: None if (x := given[name]) is None else x.clone().to(dtype).requires_grad_() for name in names
    }
    rows, width = leaves["x"].shape
    y = leaves["y"] if leaves["bias"] is None else leaves["y"] + leaves["bias"]
    probability = settings["dropout"]
    if probability:
        count = (rows * width + 3) // 4 * 4
        keep = dropout_mask(torch.arange(count), probability, settings["seed"], settings["stream"])
        y = y * keep[: rows * width].view(rows, width) / (1 - probability)
    total = settings["alpha"] * leaves["x"] + y
    if settings["rms"]:
        normed = F.rms_norm(total, (width,), leaves["weight"], 1e-5)
    else:
        normed = F.layer_norm(total, (width,), leaves["weight"], leaves["norm_bias"], 1e-5)
    outputs, gradients = [normed], [given["grad_normed"].to(dtype)]
    if given["grad_sum"] is not None:
        outputs, gradients = [total, normed], [given["grad_sum"].to(dtype), *gradients]
    torch.autograd.backward(outputs, gradients)
    return {"sum": total.detach(), "normed": normed.detach()} | {
        f"grad_{name}": leaf.grad for name, leaf in leaves.items() if leaf is not None
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), WIDTHS)
def test_layer_norm_is_as_accurate_as_pytorch(
    emulator: Emulator, rows: int, width: int, dtype: torch.dtype
) -> None:
    given, settings = inputs(rows, width, dtype), numbers(rows, width, dtype, dropout=0.1)
    result = computed(emulator, given, settings)
    exact, composition = expected(given, settings, torch.float64), expected(given, settings, dtype)
    if width == 1:  # one element has no deviation: all but the sum is rounding
        result, exact = {"sum": result["sum"]}, {"sum": exact["sum"]}
    assert_all_as_accurate(result, exact, composition)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(7, 64), (3, 515), (2, 4100)])
def test_rms_norm_without_biases_and_gradient_of_the_sum(
    emulator: Emulator, rows: int, width: int, dtype: torch.dtype
) -> None:
    given = inputs(rows, width, dtype) | {"bias": None, "norm_bias": None, "grad_sum": None}
    settings = numbers(rows, width, dtype, rms=True)
    result = computed(emulator, given, settings)
    exact, composition = expected(given, settings, torch.float64), expected(given, settings, dtype)
    assert result.keys() == exact.keys()
    assert_all_as_accurate(result, exact, composition)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(6, 64), (3, 641)])
def test_a_norm_alone(emulator: Emulator, rows: int, width: int, dtype: torch.dtype) -> None:
    given = inputs(rows, width, dtype) | {"y": None, "bias": None}
    settings = numbers(rows, width, dtype) | {"alpha": 1.0}
    result = computed(emulator, given, settings)
    summed = given | {"y": torch.zeros(rows, width, dtype=dtype)}  # adding zeros changes nothing
    exact, composition = expected(summed, settings, torch.float64), expected(summed, settings, dtype)
    names = ("normed", "grad_x", "grad_weight", "grad_norm_bias")
    assert result.keys() == set(names)
    assert_all_as_accurate(result, {name: exact[name] for name in names}, composition)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(6, 64), (3, 641)])
def test_a_residual_sum_alone(emulator: Emulator, rows: int, width: int, dtype: torch.dtype) -> None:
    given = inputs(rows, width, dtype)
    settings = numbers(rows, width, dtype, dropout=0.2)
    without_norm = given | {"grad_normed": torch.zeros(rows, width, dtype=dtype)}
    exact = expected(without_norm, settings, torch.float64)
    composition = expected(without_norm, settings, dtype)
    result = computed(emulator, given | {"grad_normed": None, "weight": None, "norm_bias": None}, settings)
    names = ("sum", "grad_x", "grad_y", "grad_bias")
    assert result.keys() == set(names)
    assert_all_as_accurate(result, {name: exact[name] for name in names}, composition)


def test_more_rows_than_blocks_add_up_the_parameters_gradients(emulator: Emulator) -> None:
    given, settings = inputs(1100, 12, torch.float32), numbers(1100, 12, torch.float32)
    result = computed(emulator, given, settings)
    exact, composition = expected(given, settings, torch.float64), expected(given, settings, torch.float32)
    assert_all_as_accurate(result, exact, composition)


@pytest.mark.parametrize("width", [48, 50, 700, 701])
def test_dropout_drops_what_the_counter_says_in_both_passes(emulator: Emulator, width: int) -> None:
    given, settings = inputs(5, width, torch.float32), numbers(5, width, torch.float32, dropout=0.3)
    zero = torch.zeros(5, width)
    given |= {"x": zero, "y": torch.ones(5, width), "bias": None, "grad_normed": zero}
    given["grad_sum"] = torch.ones(5, width)
    result = computed(emulator, given, settings)
    count = (5 * width + 3) // 4 * 4
    keep = dropout_mask(torch.arange(count), 0.3, settings["seed"], settings["stream"])
    keep = keep[: 5 * width].view(5, width)
    torch.testing.assert_close(result["sum"], keep / 0.7, rtol=1e-6, atol=0)
    torch.testing.assert_close(result["grad_y"], keep / 0.7, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("rows", "width"), [(5, 64), (2, 640), (1, 4100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_for_any_order_of_threads_and_any_alignment(
    emulator: Emulator, rows: int, width: int, dtype: torch.dtype
) -> None:
    given, settings = inputs(rows, width, dtype), numbers(rows, width, dtype, dropout=0.1)
    first = computed(emulator, given, settings)
    for variant in ({"order": "reverse"}, {"order": "7"}, {"shift": 4}):
        other = computed(emulator, given, settings, **variant)
        for name, tensor in first.items():
            assert torch.equal(tensor, other[name]), f"{name} differs with {variant}"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_keeps_to_itself(emulator: Emulator, value: float) -> None:
    given, settings = inputs(4, 96, torch.float32), numbers(4, 96, torch.float32)
    given["x"][2, 11] = value
    result, exact = computed(emulator, given, settings), expected(given, settings, torch.float64)
    for name in ("sum", "normed", "grad_x", "grad_y"):
        torch.testing.assert_close(
            result[name].double(), exact[name], equal_nan=True, rtol=1e-4, atol=1e-4, msg=f"{name} differs"
        )
    assert result["normed"][2].isnan().all() and result["normed"][[0, 1, 3]].isfinite().all()


def test_no_rows_give_no_output_and_zero_gradients(emulator: Emulator) -> None:
    given, settings = inputs(0, 64, torch.float32), numbers(0, 64, torch.float32)
    result = computed(emulator, given, settings)
    assert result["normed"].shape == (0, 64)
    for name in ("grad_bias", "grad_weight", "grad_norm_bias"):
        assert torch.equal(result[name], torch.zeros(64))


def test_a_row_too_wide_is_refused(emulator: Emulator) -> None:
    given, settings = inputs(1, 8193, torch.float32), numbers(1, 8193, torch.float32)
    with pytest.raises(EmulationFailed, match="launcher returned"):
        computed(emulator, given, settings)
