"""The emulation finds faults that are planted in copies of the CUDA sources."""

import pytest
import torch

from tests.kernels.cuda.attention_cases import Case, computed, expected, make_case
from tests.kernels.cuda.conftest import BuildEmulator
from tests.kernels.cuda.emulated import EmulationFailed, Emulator
from tests.kernels.cuda.residual_norm_runs import computed as computed_norm
from tests.kernels.cuda.residual_norm_runs import inputs, numbers

FORWARD, BACKWARD = "attention/forward.cuh", "attention/backward.cuh"
PROBLEM, DEVICE, NORM = "attention/problem.cuh", "common/device.cuh", "residual_norm/cuda.cu"
HEAD_SIZE = ("FPM_HEAD_SIZES=32",)


def is_wrong(emulator: Emulator, case: Case) -> bool:
    """Whether any order of the threads gives another result than the reference."""
    exact = expected(case, torch.float64)
    for order in ("forward", "reverse"):
        result = computed(emulator, case, order=order)
        for name, tensor in exact.items():
            if not torch.allclose(result[name].double(), tensor, rtol=1e-3, atol=1e-3):
                return True
    return False


def small_case(**options) -> Case:
    return make_case(1, 70, 75, 1, 32, **({"dropout": 0.1, "bias_batches": 1} | options))


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (FORWARD, "__syncthreads();\n\n        Accumulator", "\n        Accumulator"),
        (FORWARD, "__syncthreads();  // all warps have used", "// all warps have used"),
        (
            FORWARD,
            "store_accumulator(probabilities, scores);\n        __syncwarp();",
            "store_accumulator(probabilities, scores);",
        ),
        (BACKWARD, "__syncwarp();  // before the probabilities give way", ""),
    ],
    ids=[
        "before the tiles are read",
        "before they are overwritten",
        "before a warp reads",
        "before a warp overwrites",
    ],
)
def test_a_missing_barrier_shows_in_the_results(
    emulate: BuildEmulator, path: str, old: str, new: str
) -> None:
    emulator = emulate("attention/cuda.cu", defines=HEAD_SIZE, faults={path: [(old, new)]})
    assert is_wrong(emulator, small_case())


@pytest.mark.parametrize(
    ("path", "old", "new", "report"),
    [
        (
            DEVICE,
            "__shfl_xor_sync(kAllLanes, x, lanes)",
            "__shfl_xor_sync(0x0000ffffu, x, lanes)",
            "outside of mask 0000ffff|not in its own mask",
        ),
        (
            DEVICE,
            "__shfl_xor_sync(kAllLanes, x, lanes)",
            "__shfl_xor_sync(lane_index() < 16 ? 0xffffu : 0xffff0000u, x, lanes)",
            "reads lane 31 outside of mask 0000ffff",
        ),
        (DEVICE, "x = warp_sum(x);", "if (lane_index() != 5) x = warp_sum(x);", "deadlock"),
    ],
    ids=["half a mask", "two halves", "a lane that stays away"],
)
def test_a_wrong_shuffle_mask_is_reported(
    emulate: BuildEmulator, path: str, old: str, new: str, report: str
) -> None:
    emulator = emulate(NORM, faults={path: [(old, new)]})
    with pytest.raises(EmulationFailed, match=report):
        computed_norm(emulator, inputs(4, 64, torch.float32), numbers(4, 64, torch.float32))


def test_a_barrier_that_some_threads_pass_by_is_reported(emulate: BuildEmulator) -> None:
    fault = (
        "scratch[warp_index()] = x;\n        __syncthreads();",
        "scratch[warp_index()] = x;\n        if (warp_index() != 1) __syncthreads();",
    )
    emulator = emulate(NORM, faults={DEVICE: [fault]})
    with pytest.raises(EmulationFailed, match=r"deadlock.*device\.cuh"):
        computed_norm(emulator, inputs(2, 640, torch.float32), numbers(2, 640, torch.float32))


@pytest.mark.parametrize(
    ("path", "old", "new", "report"),
    [
        (
            PROBLEM,
            "const bool inside = row < end - first && column < head_size;",
            "const bool inside = row <= end - first && column < head_size;",
            "heap-buffer-overflow",
        ),
        (
            PROBLEM,
            "if (row >= end - first || column >= head_size) continue;",
            "if (row > end - first || column >= head_size) continue;",
            "heap-buffer-overflow",
        ),
        (
            FORWARD,
            "kRows * kNarrow) * sizeof(T)",
            "kRows * kNarrow - kNarrow) * sizeof(T)",
            "use-after-poison",
        ),
        (
            BACKWARD,
            "row < tensors.queries && column < tensors.keys",
            "row < tensors.queries",
            "heap-buffer-overflow",
        ),
    ],
    ids=[
        "a row too many is read",
        "a row too many is written",
        "shared memory too small",
        "a column too many is written",
    ],
)
def test_an_index_out_of_bounds_is_reported(
    emulate: BuildEmulator, path: str, old: str, new: str, report: str
) -> None:
    emulator = emulate("attention/cuda.cu", defines=HEAD_SIZE, faults={path: [(old, new)]})
    with pytest.raises(EmulationFailed, match=report):
        computed(emulator, small_case())


def test_an_access_out_of_alignment_is_reported(emulate: BuildEmulator) -> None:
    fault = ("return are_aligned(16, tensor) && ", "return ")
    emulator = emulate("attention/cuda.cu", defines=HEAD_SIZE, faults={"attention/cuda.cu": [fault]})
    with pytest.raises(EmulationFailed, match="misaligned address"):
        computed(emulator, small_case(), shift=4)


def test_threads_of_attention_do_not_race(emulate: BuildEmulator) -> None:
    emulator = emulate("attention/cuda.cu", defines=HEAD_SIZE, threads=True)
    case = make_case(1, 40, 40, 1, 32, dropout=0.1, bias_batches=1)
    result, exact = computed(emulator, case), expected(case, torch.float64)
    assert torch.allclose(result["grad_key"].double(), exact["grad_key"], rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_threads_of_attention_by_tensor_cores_do_not_race(emulate: BuildEmulator) -> None:
    emulator = emulate("attention/cuda.cu", defines=HEAD_SIZE, threads=True)
    case = small_case(dtype=torch.bfloat16)
    result, exact = computed(emulator, case), expected(case, torch.float64)
    assert torch.allclose(result["grad_key"].double(), exact["grad_key"], rtol=0.05, atol=0.05)


def test_threads_of_a_norm_do_not_race(emulate: BuildEmulator) -> None:
    given = inputs(2, 520, torch.float32) | {"bias": None, "norm_bias": None}
    computed_norm(emulate(NORM, threads=True), given, numbers(2, 520, torch.float32))


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (FORWARD, "__syncthreads();\n\n        Accumulator", "\n        Accumulator"),
        (
            FORWARD,
            "store_accumulator(probabilities, scores);\n        __syncwarp();",
            "store_accumulator(probabilities, scores);",
        ),
    ],
    ids=["block", "warp"],
)
def test_the_lines_of_a_race_are_named(emulate: BuildEmulator, path: str, old: str, new: str) -> None:
    emulator = emulate("attention/cuda.cu", defines=HEAD_SIZE, threads=True, faults={path: [(old, new)]})
    with pytest.raises(EmulationFailed, match=r"(?s)data race.*\.cuh:\d+.*Previous (read|write).*\.cuh:\d+"):
        computed(emulator, small_case())
