"""nvcc compiles the CUDA sources without spills, and the operators' pages say what it reports."""

import os

import pytest

from benchmarks.cuda_resources import (
    ARCHITECTURES,
    OPERATORS,
    Resources,
    compile_operator,
    nvcc,
    parse_report,
    read_table,
)

DEFAULT_ARCHITECTURES = ("sm_80", "sm_90")
REGISTER_LIMIT = 255

needs_nvcc = pytest.mark.skipif(
    nvcc() is None, reason="nvcc is not installed: the CUDA sources are not compiled"
)


def assert_as_documented(operator: str, resources: list[Resources]) -> None:
    documented = read_table(operator)
    for each in resources:
        assert each.spilled == each.stack == 0, f"{each.kernel} spills on {each.architecture}"
        assert each.registers <= REGISTER_LIMIT
        assert each.shared == 0, "shared memory is asked for at the launch, which the emulation checks"
        said = documented[each.kernel, each.architecture]
        assert said == str(each), f"{each.kernel} on {each.architecture}: the README says {said}, nvcc {each}"


@needs_nvcc
@pytest.mark.parametrize("operator", ["residual_norm", "bias_gelu", "dropout"])
def test_kernels_do_not_spill_and_their_page_says_so(operator: str) -> None:
    assert_as_documented(operator, compile_operator(operator, DEFAULT_ARCHITECTURES))


@needs_nvcc
@pytest.mark.long
def test_attention_of_the_default_head_size_does_not_spill() -> None:
    resources = compile_operator("attention", ["sm_90"], ["FPM_HEAD_SIZES=64"])
    assert_as_documented("attention", resources)


@needs_nvcc
@pytest.mark.long
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_kernel_on_every_architecture(operator: str) -> None:
    resources = compile_operator(operator)
    assert_as_documented(operator, resources)
    assert {(each.kernel, each.architecture) for each in resources} == read_table(operator).keys()


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_page_of_each_operator_covers_all_architectures(operator: str) -> None:
    documented = read_table(operator)
    assert documented
    assert {architecture for _, architecture in documented} == set(ARCHITECTURES)
    assert all(cell.isdigit() and int(cell) <= REGISTER_LIMIT for cell in documented.values())


def test_a_report_is_read_with_its_spills() -> None:
    report = os.linesep.join(
        [
            "ptxas info    : Compiling entry function 'void fpm::(anonymous namespace)::"
            "some_kernel<__half, 128>(fpm::Arguments)' for 'sm_90'",
            "ptxas info    : Function properties for whatever",
            "    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads",
            "ptxas info    : Used 64 registers, used 1 barriers, 256 bytes smem, 400 bytes cmem[0]",
        ]
    )
    assert parse_report(report) == [Resources("some_kernel<half, 128>", "sm_90", 64, 12, 16, 256)]
