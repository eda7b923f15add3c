"""kernels/attention/cuda.cu, run on the CPU, against attention written out in float64."""

import pytest
import torch

from tests.kernels.cuda.accuracy import assert_all_as_accurate
from tests.kernels.cuda.attention_cases import Case, composition, computed, expected, kept, make_case
from tests.kernels.cuda.conftest import BuildEmulator
from tests.kernels.cuda.emulated import EmulationFailed, Emulator

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMS = {
    "no mask": {},
    "causal, packed projection": {"causal": True, "views": True},
    "key padding": {"masked": True, "dropout": 0.1},
    "bias of all batches": {"bias_batches": 1, "dropout": 0.2},
    "bias of each batch, causal": {"bias_batches": 2, "causal": True},
    "bias and key padding": {"bias_batches": 1, "masked": True},
    "documents": {"documents": True, "causal": True, "dropout": 0.1},
    "packed": {"lengths": (5, 130, 1, 17), "dropout": 0.1},
    "packed, causal": {"lengths": (70, 33), "causal": True},
}


@pytest.fixture(scope="module")
def emulator(emulate: BuildEmulator) -> Emulator:
    return emulate("attention/cuda.cu", defines=("FPM_HEAD_SIZES=32",))


def check(emulator: Emulator, case: Case) -> None:
    result, exact = computed(emulator, case), expected(case, torch.float64)
    same_precision = expected(case, case.query.dtype)
    assert result.keys() - {"log_sum_exp"} == exact.keys()
    assert_all_as_accurate(result, exact, same_precision)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_as_accurate_as_pytorch(emulator: Emulator, form: str, dtype: torch.dtype) -> None:
    check(emulator, make_case(2, 75, 75, 2, 32, dtype=dtype, **FORMS[form]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("queries", "keys", "head_size"), [(1, 70, 8), (67, 3, 23), (64, 64, 31), (40, 129, 32)]
)
def test_any_number_of_queries_keys_and_channels(
    emulator: Emulator, queries: int, keys: int, head_size: int, dtype: torch.dtype
) -> None:
    check(emulator, make_case(2, queries, keys, 4, head_size, dtype=dtype, bias_batches=1, dropout=0.1))


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_size", [64, 80, 128])
def test_every_compiled_head_size(emulate: BuildEmulator, head_size: int, dtype: torch.dtype) -> None:
    emulator = emulate("attention/cuda.cu", defines=(f"FPM_HEAD_SIZES={head_size}",))
    for form in FORMS.values():
        check(emulator, make_case(2, 75, 75, 1, head_size, dtype=dtype, **form))
    check(emulator, make_case(1, 40, 129, 1, head_size - 3, dtype=dtype, bias_batches=1, dropout=0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dropout_drops_what_the_counter_says(emulator: Emulator, dtype: torch.dtype) -> None:
    # With equal scores and an identity for values, the output is the probabilities themselves, and the
    # gradients of the values are their transpose.
    case = make_case(2, 32, 32, 2, 32, dtype=dtype, dropout=0.4)
    case.query.zero_()
    identity = torch.eye(32, dtype=dtype)[None, :, None].expand(2, 32, 2, 32)
    case.value, case.grad_out = identity.contiguous(), identity.contiguous()
    result = computed(emulator, case)
    keep = kept(case, torch.arange(2 * 2 * 32).view(2, 2, 32), 32, 32)  # (batch, heads, queries, keys)
    assert torch.equal(result["out"].transpose(1, 2) != 0, keep)
    assert torch.equal(result["grad_value"].transpose(1, 2) != 0, keep.transpose(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_for_any_order_of_threads_and_any_alignment(emulator: Emulator, dtype: torch.dtype) -> None:
    case = make_case(2, 75, 70, 1, 32, dtype=dtype, bias_batches=1, dropout=0.1)
    first = computed(emulator, case)
    for variant in ({"order": "reverse"}, {"order": "7"}, {"shift": 4}):
        other = computed(emulator, case, **variant)
        for name, tensor in first.items():
            assert torch.equal(tensor, other[name]), f"{name} differs with {variant}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_query_without_a_key_gives_zeros(emulator: Emulator, dtype: torch.dtype) -> None:
    case = make_case(2, 20, 70, 1, 32, dtype=dtype, bias_batches=1)
    case.key_mask = torch.ones(2, 70, dtype=torch.bool)
    case.key_mask[0] = False
    case.bias[0, 0, 7] = -torch.inf  # a mask by the bias is one as well
    result = computed(emulator, case)
    assert torch.equal(result["out"][0], torch.zeros_like(result["out"][0]))
    assert torch.equal(result["out"][1, 7], torch.zeros_like(result["out"][1, 7]))
    assert torch.equal(result["grad_query"][0], torch.zeros_like(result["grad_query"][0]))
    assert torch.equal(result["grad_key"][0], torch.zeros_like(result["grad_key"][0]))
    assert torch.equal(result["grad_bias"][0, 0, 7], torch.zeros_like(result["grad_bias"][0, 0, 7]))
    assert (result["log_sum_exp"][0] == -torch.inf).all()
    exact, same_precision = expected(case, torch.float64), expected(case, dtype)
    assert_all_as_accurate(result, exact, same_precision)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_key_passes_its_value_on(emulator: Emulator, dtype: torch.dtype) -> None:
    case = make_case(2, 3, 1, 1, 5, dtype=dtype)
    result = computed(emulator, case)
    assert torch.equal(result["out"], case.value.expand(2, 3, 1, 5))
    for name in ("grad_query", "grad_key"):  # the softmax of one score is constant
        torch.testing.assert_close(
            result[name], torch.zeros_like(result[name]), rtol=0, atol=4 * torch.finfo(dtype).eps
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_query_that_is_not_finite_spoils_its_row_and_the_keys_it_attends_to(
    emulator: Emulator, value: float, dtype: torch.dtype
) -> None:
    case = make_case(1, 70, 70, 1, 32, dtype=dtype, causal=True)
    case.query[0, 21] = value
    result = computed(emulator, case)
    own, attended = torch.zeros(70, dtype=torch.bool), torch.arange(70) <= 21
    own[21] = True
    for name, spoilt in (("out", own), ("grad_query", own), ("grad_value", attended)):
        rows = result[name][0, :, 0].isnan()
        assert torch.equal(rows.all(-1), spoilt) and torch.equal(rows.any(-1), spoilt), name
    assert result["grad_key"][0, attended].isnan().all()


def test_log_sum_exp_is_that_of_the_scores(emulator: Emulator) -> None:
    case = make_case(2, 33, 70, 2, 32, masked=True, dropout=0.5)
    case.key_mask[0, :3] = True
    scores = torch.einsum("bqnd,bknd->bnqk", case.query.double(), case.key.double()) * case.scale
    exact = scores.masked_fill(~case.key_mask[:, None, None], -torch.inf).logsumexp(-1)
    torch.testing.assert_close(computed(emulator, case)["log_sum_exp"].double(), exact, rtol=1e-6, atol=1e-6)


def test_causal_with_more_or_fewer_keys_than_queries_aligns_the_last(emulator: Emulator) -> None:
    for queries, keys in ((70, 140), (140, 70), (3, 200), (200, 3)):
        case = make_case(1, queries, keys, 1, 32, causal=True, dropout=0.1)
        result = computed(emulator, case)
        for name, tensor in expected(case, torch.float64).items():
            torch.testing.assert_close(result[name].double(), tensor, rtol=1e-5, atol=1e-5)


def test_more_sequences_than_a_warp_has_lanes(emulator: Emulator) -> None:
    lengths = (*range(1, 36), 0, 130, 65, 0)
    check(emulator, make_case(1, 0, 0, 1, 8, lengths=lengths, causal=True, dropout=0.1))


def test_the_gradient_of_the_bias_is_added_to(emulator: Emulator) -> None:
    case = make_case(2, 20, 30, 2, 8, bias_batches=1)
    once = computed(emulator, case)["grad_bias"]
    before = torch.randn(case.bias.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(computed(emulator, case, grad_bias=before)["grad_bias"], before + once)


def test_a_head_too_large_is_refused(emulator: Emulator) -> None:
    with pytest.raises(EmulationFailed, match="launcher returned"):
        computed(emulator, make_case(1, 4, 4, 1, 33))


def test_the_reference_is_pytorchs_attention() -> None:
    case = make_case(2, 9, 11, 2, 8, dtype=torch.float64, bias_batches=2)
    query, key, value = (x.transpose(1, 2) for x in (case.query, case.key, case.value))
    everything = torch.ones(2, 1, 9, 11, dtype=torch.bool)
    ours = composition(query, key, value, case.bias, everything, everything, case)
    torchs = torch.nn.functional.scaled_dot_product_attention(query, key, value, case.bias, scale=case.scale)
    torch.testing.assert_close(ours, torchs)
