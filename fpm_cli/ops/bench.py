"""Timing the compiled operators beside PyTorch's own, forward and backward, in interleaved rounds.

Small tensors cost what their calls cost, most of which is autograd's. A compiled layer is one autograd
function for all its operators (`ops/transformer_layer.py`): the rows "in a layer" time what one costs there.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fpm_cli import cuda
from fpm_cli.ops.dropout import Dropout
from fpm_cli.ops.fused_attention import fused_self_attention
from fpm_cli.ops.gelu import bias_gelu, gated_gelu
from fpm_cli.ops.residual_norm import residual_norm
from fpm_cli.ops.schemas import BIAS_GELU, BIAS_GELU_BACKWARD, RESIDUAL_NORM, RESIDUAL_NORM_BACKWARD

DROPOUT = Dropout(0.1, seed=1, stream=1)
CPU = torch.device("cpu")
FLOAT_BYTES = 4
SHORTEST_SECONDS = 0.004  # what one timing takes at least: shorter ones repeat the call


@dataclass(frozen=True)
class Shape:
    """The sizes of one layer's tensors, and which masks and activation its family has."""

    family: str  # gpt, bert or encdec
    batch: int
    length: int
    num_heads: int
    head_size: int
    ffn_size: int

    @property
    def width(self) -> int:
        """The hidden size, here that of all heads together."""
        return self.num_heads * self.head_size

    def __str__(self) -> str:
        return f"{self.family} {self.batch} x {self.length} x {self.width}, {self.num_heads} heads"


@dataclass(frozen=True)
class Case:
    """One operator on one shape: the compiled form, PyTorch's composition, and what is moved at least."""

    operator: str
    shape: Shape
    num_bytes: int  # read and written by forward and backward, each tensor once each way
    compiled: Callable[[], object]
    composed: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds per call and what follows from them; medians over rounds, with the quartiles of the ratio."""

    operator: str
    shape: str
    threads: int
    compiled_seconds: float
    composed_seconds: float
    ratio: float  # composed / compiled
    ratio_quartiles: tuple[float, float]
    num_bytes: int
    bandwidth_share: float  # of what copying a large tensor reaches


SHAPES = (
    Shape("bert", 8, 512, 8, 32, 1024),
    Shape("gpt", 8, 512, 8, 32, 1024),
    Shape("encdec", 8, 512, 8, 32, 1024),
    Shape("bert", 8, 128, 8, 32, 1024),
    Shape("gpt", 8, 128, 8, 32, 1024),
    Shape("encdec", 8, 128, 8, 32, 1024),
    Shape("gpt", 1, 128, 4, 16, 256),
)


def cases(shape: Shape) -> list[Case]:
    """Every operator a layer of the family runs, with dropout 0.1 where the operator has it."""
    tokens = (shape.batch, shape.length)
    is_gated = shape.family == "encdec"
    return [
        _attention_case(shape),
        *_residual_norm_cases(shape, tokens, rms=is_gated),
        *([_gated_gelu_case(shape, tokens)] if is_gated else _bias_gelu_cases(shape, tokens)),
    ]


def _leaf(*sizes: int) -> Tensor:
    return torch.randn(*sizes, requires_grad=True)


def _attention_case(shape: Shape) -> Case:
    batch, length, heads, size = shape.batch, shape.length, shape.num_heads, shape.head_size
    parts, grad = _leaf(batch, length, 3, heads, size), torch.randn(batch, length, heads, size)
    causal = shape.family == "gpt"
    bias = _leaf(1, heads, length, length) if shape.family == "encdec" else None
    key_mask = torch.ones(batch, length, dtype=torch.bool) if shape.family == "bert" else None
    mask = bias if key_mask is None else key_mask[:, None, None]
    leaves = [parts] if bias is None else [parts, bias]
    scale = 1 / math.sqrt(size)

    def compiled() -> object:
        out = fused_self_attention(
            parts, scale=scale, bias=bias, key_mask=key_mask, causal=causal, dropout=DROPOUT
        )
        return torch.autograd.grad(out, leaves, grad)

    def composed() -> object:
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(
            query, key, value, mask, DROPOUT.probability, is_causal=causal, scale=scale
        )
        return torch.autograd.grad(out.transpose(1, 2), leaves, grad)

    moved = 11 * grad.numel() + (0 if bias is None else 3 * bias.numel())
    return Case("attention", shape, moved * FLOAT_BYTES, compiled, composed)


def _residual_norm_cases(shape: Shape, tokens: tuple[int, int], *, rms: bool) -> list[Case]:
    x, y = _leaf(*tokens, shape.width), _leaf(*tokens, shape.width)
    weight = _leaf(shape.width)
    bias, norm_bias = (None, None) if rms else (_leaf(shape.width), _leaf(shape.width))
    leaves = [each for each in (x, y, weight, bias, norm_bias) if each is not None]
    grads = [torch.randn(*tokens, shape.width) for _ in range(2)]

    def compiled() -> object:
        both = residual_norm(x, y, weight, eps=1e-5, bias=bias, norm_bias=norm_bias, dropout=DROPOUT, rms=rms)
        return torch.autograd.grad(both, leaves, grads)

    x_, y_, bias_, weight_, norm_bias_ = (
        None if each is None else each.detach() for each in (x, y, bias, weight, norm_bias)
    )
    random = DROPOUT.probability, DROPOUT.seed, DROPOUT.stream
    has_biases = bias is not None, norm_bias is not None

    def in_a_layer() -> object:
        total, _, stats = RESIDUAL_NORM(x_, y_, bias_, weight_, norm_bias_, 1.0, *random, 1e-5, rms)
        grad_x, grad_y, grad_bias, grad_weight, grad_norm_bias = RESIDUAL_NORM_BACKWARD(
            *grads, total, stats, weight_, 1.0, *random, rms, *has_biases
        )
        biases = [] if rms else [grad_bias, grad_norm_bias]
        return grad_x, grad_y, grad_weight, *biases

    def composed() -> object:
        total = x + F.dropout(y if bias is None else y + bias, DROPOUT.probability)
        if rms:
            normed = F.rms_norm(total, weight.shape, weight, 1e-5)
        else:
            normed = F.layer_norm(total, weight.shape, weight, norm_bias, 1e-5)
        return torch.autograd.grad((total, normed), leaves, grads)

    num_bytes = 9 * x.numel() * FLOAT_BYTES
    return [
        Case("residual_norm", shape, num_bytes, compiled, composed),
        Case("residual_norm in a layer", shape, num_bytes, in_a_layer, composed),
    ]


def _bias_gelu_cases(shape: Shape, tokens: tuple[int, int]) -> list[Case]:
    x, bias, grad = (
        _leaf(*tokens, shape.ffn_size),
        _leaf(shape.ffn_size),
        torch.randn(*tokens, shape.ffn_size),
    )
    tanh = shape.family != "bert"

    def compiled() -> object:
        return torch.autograd.grad(bias_gelu(x, bias, tanh=tanh), (x, bias), grad)

    x_, bias_ = x.detach(), bias.detach()

    def in_a_layer() -> object:
        BIAS_GELU(x_, bias_, tanh)
        return BIAS_GELU_BACKWARD(grad, x_, bias_, tanh)

    def composed() -> object:
        return torch.autograd.grad(F.gelu(x + bias, approximate="tanh" if tanh else "none"), (x, bias), grad)

    name, num_bytes = "bias_gelu tanh" if tanh else "bias_gelu erf", 5 * x.numel() * FLOAT_BYTES
    return [
        Case(name, shape, num_bytes, compiled, composed),
        Case(f"{name} in a layer", shape, num_bytes, in_a_layer, composed),
    ]


def _gated_gelu_case(shape: Shape, tokens: tuple[int, int]) -> Case:
    gate, up = _leaf(*tokens, shape.ffn_size), _leaf(*tokens, shape.ffn_size)
    grad = torch.randn(*tokens, shape.ffn_size)

    def compiled() -> object:
        return torch.autograd.grad(gated_gelu(gate, up, tanh=True), (gate, up), grad)

    def composed() -> object:
        return torch.autograd.grad(F.gelu(gate, approximate="tanh") * up, (gate, up), grad)

    return Case("gated_gelu tanh", shape, 8 * gate.numel() * FLOAT_BYTES, compiled, composed)


def measure_bandwidth(num_megabytes: int = 256) -> float:
    """Bytes per second read and written when copying a tensor larger than the caches; the best of five."""
    source = torch.ones(num_megabytes * 2**18)
    target = torch.empty_like(source)
    seconds = [_seconds(lambda: target.copy_(source), 1) for _ in range(6)]
    return 2 * source.numel() * FLOAT_BYTES / min(seconds[1:])


def time_case(case: Case, *, rounds: int, bandwidth: float) -> Timing:
    """Time both forms in turns, `rounds` times each, after one call of each to warm up."""
    functions = case.compiled, case.composed
    calls = [max(1, math.ceil(SHORTEST_SECONDS / max(_warm_seconds(f), 1e-6))) for f in functions]
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds):
        compiled, composed = (_seconds(f, n) for f, n in zip(functions, calls, strict=True))
        seconds.append((compiled, composed))
    ratios = [composed / compiled for compiled, composed in seconds]
    compiled_seconds = statistics.median(compiled for compiled, _ in seconds)
    return Timing(
        operator=case.operator,
        shape=str(case.shape),
        threads=torch.get_num_threads(),
        compiled_seconds=compiled_seconds,
        composed_seconds=statistics.median(composed for _, composed in seconds),
        ratio=statistics.median(ratios),
        ratio_quartiles=_quartiles(ratios),
        num_bytes=case.num_bytes,
        bandwidth_share=case.num_bytes / compiled_seconds / bandwidth,
    )


def time_shapes(
    shapes: Sequence[Shape], *, threads: int, rounds: int, device: torch.device = CPU
) -> list[Timing]:
    """Time every operator on every shape.

    Args:
        shapes: of the layers.
        threads: of torch on the CPU; its number is put back.
        rounds: timings of each, of which the median is taken.
        device: where.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        with device:
            bandwidth = measure_bandwidth()
            return [
                time_case(case, rounds=rounds, bandwidth=bandwidth)
                for shape in shapes
                for case in cases(shape)
            ]
    finally:
        torch.set_num_threads(before)


def _warm_seconds(function: Callable[[], object]) -> float:
    function()
    return _seconds(function, 1)


def _seconds(function: Callable[[], object], calls: int) -> float:
    on_gpu = torch.get_default_device().type == "cuda"
    # With one thread the process's own time, which other work on the machine disturbs little.
    clock = time.process_time if torch.get_num_threads() == 1 and not on_gpu else time.perf_counter
    if on_gpu:
        cuda.synchronize()
    start = clock()
    for _ in range(calls):
        function()
    if on_gpu:
        cuda.synchronize()
    return (clock() - start) / calls


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
