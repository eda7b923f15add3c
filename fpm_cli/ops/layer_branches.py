"""The branches of a compiled transformer layer: attention and MLP, each with its backward pass.

Composed of raw operators and matrix products, without autograd. The forward pass of a branch appends to a
tape what its backward pass pops from the end.

Shapes: T tokens (of all sequences), H hidden size, N heads, D head size, F inner size of the MLP, B batch, Q
queries, K keys. Every matrix has T rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fpm_cli.ops.linear import linear, linear_input_grad, linear_weight_grad
from fpm_cli.ops.schemas import (
    ATTENTION,
    ATTENTION_BACKWARD,
    BIAS_GELU,
    BIAS_GELU_BACKWARD,
    GATED_GELU,
    GATED_GELU_BACKWARD,
    NORM,
)

# Streams of random numbers within a layer, see kernels/common/philox.h.
STREAMS_PER_LAYER = 8
# Kinds of branches; the numbers are the streams of attention probabilities and, for the MLP, of its residual.
SELF_ATTENTION, CROSS_ATTENTION, MLP_BRANCH = 1, 3, 5

Gradients = list[Tensor | None]
Parameters = Sequence[Any]  # tensors, None where the family has none
Tape = list[Tensor]


@dataclass(frozen=True)
class LayerStructure:
    """What is the same in every call of a layer."""

    branches: tuple[int, ...]  # of SELF_ATTENTION, CROSS_ATTENTION, MLP_BRANCH, in order
    num_heads: int
    softmax_scale: float
    tanh_gelu: bool
    pre_norm: bool
    alpha: float  # weight of the skip connection (DeepNorm); 1 with pre-norm
    epsilon: float
    rms_norm: bool
    first_stream: int  # of the layer's random numbers


@dataclass(frozen=True)
class LayerInputs:
    """What is the same in every layer of one forward pass, tensors with gradients aside."""

    shape: tuple[int, ...]  # (B, S), or (T,) for a packed stream
    causal: bool = False
    key_mask: Tensor | None = None  # (B, S) bool
    documents: Tensor | None = None  # (B, S) int64, rising
    cu_seqlens: Tensor | None = None  # (sequences + 1,) int32, of a packed stream
    memory_mask: Tensor | None = None  # (B, K) bool
    dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer, parameters aside."""

    structure: LayerStructure
    inputs: LayerInputs
    recompute_mlp: bool
    memory: Tensor | None  # (B, K, H)
    bias: Tensor | None  # (1 or B, N, S, S)
    needs_memory_grad: bool = False
    needs_bias_grad: bool = False

    def dropout(self, stream: int) -> tuple[float, int, int]:
        """Probability, seed and stream of one dropout of the layer."""
        return self.inputs.dropout, self.inputs.seed, self.structure.first_stream + stream

    def split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(T, parts * N * D) -> views (B, S, N, D), or (T, N, D) packed, one for each part."""
        shape = self.inputs.shape
        return projected.view(*shape, parts, self.structure.num_heads, -1).unbind(len(shape))


class Branch(ABC):
    """A branch of one call, with its parameters: those of the norm, of linear layers, the output bias."""

    num_parameters: int
    residual_stream: int  # of the dropout after the branch

    def __init__(self, call: LayerCall, parameters: Parameters):
        self.call = call
        self.norm_weight, self.norm_bias, *self.linears, self.output_bias = parameters

    @abstractmethod
    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        """x (T, H) -> (T, H), less the bias of the output."""

    @abstractmethod
    def backward(self, grad: Tensor, grad_skip: Tensor | None, tape: Tape) -> tuple[Tensor, Gradients]:
        """Gradient of the result (T, H) -> of x, added to `grad_skip` if given, and of the linear layers."""


class SelfAttentionBranch(Branch):
    """Attention over the sequence itself, or within each sequence of a packed stream."""

    num_parameters, residual_stream = 6, 2
    grad_scores_bias: Tensor | None = None  # of `call.bias`, set by `backward`

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        """x (T, H) -> (T, H), less the bias of the output."""
        weight, bias, output_weight = self.linears
        projected = linear(x, weight, bias)
        mixed, log_sum_exp = ATTENTION(*self.call.split(projected, 3), *self._masks(), *self._settings())
        flat = mixed.view(x.shape[0], -1)
        tape += (x, projected, flat, log_sum_exp)
        return linear(flat, output_weight, None)

    def backward(self, grad: Tensor, grad_skip: Tensor | None, tape: Tape) -> tuple[Tensor, Gradients]:
        """See `Branch`."""
        weight, bias, output_weight = self.linears
        log_sum_exp, flat, projected, x = (tape.pop() for _ in range(4))
        grad_output_weight = linear_weight_grad(grad, flat, output_weight)
        grad_flat = linear_input_grad(grad, output_weight)
        query, key, value = self.call.split(projected, 3)
        grad_projected = torch.empty_like(projected)
        if self.call.bias is not None and self.call.needs_bias_grad:
            self.grad_scores_bias = torch.zeros_like(self.call.bias)
        ATTENTION_BACKWARD(
            *(grad_flat.view(query.shape), query, key, value),
            *self._masks(),
            *(flat.view(query.shape), log_sum_exp),
            *self._settings(),
            *self.call.split(grad_projected, 3),
            self.grad_scores_bias,
        )
        gradients: Gradients = [
            linear_weight_grad(grad_projected, x, weight),
            None if bias is None else grad_projected.sum(0),
            grad_output_weight,
        ]
        return linear_input_grad(grad_projected, weight, grad_skip), gradients

    def _masks(self) -> tuple[Tensor | None, ...]:
        inputs = self.call.inputs
        return self.call.bias, inputs.key_mask, inputs.documents, inputs.cu_seqlens

    def _settings(self) -> tuple[Any, ...]:
        call = self.call
        return call.inputs.causal, call.structure.softmax_scale, *call.dropout(SELF_ATTENTION)


class CrossAttentionBranch(Branch):
    """Attention of a decoder layer over the encoder's output, `call.memory`."""

    num_parameters, residual_stream = 8, 4
    grad_memory: Tensor | None = None  # set by `backward`

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        """x (T, H) -> (T, H), less the bias of the output."""
        query_weight, query_bias, weight, bias, output_weight = self.linears
        query = linear(x, query_weight, query_bias)
        key_value = linear(self._memory_rows(), weight, bias)
        mixed, log_sum_exp = ATTENTION(
            *self.call.split(query, 1), *self._split_memory(key_value), *self._masks(), *self._settings()
        )
        flat = mixed.view(x.shape[0], -1)
        tape += (x, query, key_value, flat, log_sum_exp)
        return linear(flat, output_weight, None)

    def backward(self, grad: Tensor, grad_skip: Tensor | None, tape: Tape) -> tuple[Tensor, Gradients]:
        """See `Branch`."""
        query_weight, query_bias, weight, bias, output_weight = self.linears
        log_sum_exp, flat, key_value, projected, x = (tape.pop() for _ in range(5))
        grad_output_weight = linear_weight_grad(grad, flat, output_weight)
        grad_flat = linear_input_grad(grad, output_weight)
        (query,) = self.call.split(projected, 1)
        grad_query, grad_key_value = torch.empty_like(projected), torch.empty_like(key_value)
        ATTENTION_BACKWARD(
            *(grad_flat.view(query.shape), query, *self._split_memory(key_value)),
            *self._masks(),
            *(flat.view(query.shape), log_sum_exp),
            *self._settings(),
            *(*self.call.split(grad_query, 1), *self._split_memory(grad_key_value)),
            None,
        )
        memory = self._memory_rows()
        if self.call.needs_memory_grad and self.call.memory is not None:
            self.grad_memory = linear_input_grad(grad_key_value, weight).view(self.call.memory.shape)
        gradients: Gradients = [
            linear_weight_grad(grad_query, x, query_weight),
            None if query_bias is None else grad_query.sum(0),
            linear_weight_grad(grad_key_value, memory, weight),
            None if bias is None else grad_key_value.sum(0),
            grad_output_weight,
        ]
        return linear_input_grad(grad_query, query_weight, grad_skip), gradients

    def _memory_rows(self) -> Tensor:
        """(B * K, H)."""
        assert self.call.memory is not None
        return self.call.memory.view(-1, self.call.memory.shape[-1])

    def _split_memory(self, key_value: Tensor) -> tuple[Tensor, ...]:
        """(B * K, 2 * N * D) -> views of key and value, (B, K, N, D)."""
        assert self.call.memory is not None
        shape = self.call.memory.shape[:2]
        return key_value.view(*shape, 2, self.call.structure.num_heads, -1).unbind(2)

    def _masks(self) -> tuple[Tensor | None, ...]:
        return None, self.call.inputs.memory_mask, None, None

    def _settings(self) -> tuple[Any, ...]:
        return False, self.call.structure.softmax_scale, *self.call.dropout(CROSS_ATTENTION)


class MLPBranch(Branch):
    """down(gelu(up x)), or down(gelu(gate x) * up x); with `call.recompute_mlp` its inside is not kept."""

    num_parameters, residual_stream = 7, MLP_BRANCH

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        """x (T, H) -> (T, H), less the bias of the output."""
        call, length = self.call, len(tape)
        output = linear(self._inner(x, tape), self.linears[-1], None)
        if call.recompute_mlp:
            del tape[length:]
            if not call.structure.pre_norm:
                tape.append(x)
        return output

    def _inner(self, x: Tensor, tape: Tape) -> Tensor:
        """The input of the last linear layer, (T, F)."""
        gate_weight, up_weight, up_bias, _ = self.linears
        tanh = self.call.structure.tanh_gelu
        up = linear(x, up_weight, None)
        inner: Tensor
        if gate_weight is None:
            inner = BIAS_GELU(up, up_bias, tanh)
            tape += (x, up, inner)
        else:
            gate = linear(x, gate_weight, None)
            inner = GATED_GELU(gate, up, tanh)
            tape += (x, up, gate, inner)
        return inner

    def _recompute(self, tape: Tape) -> None:
        """Append what the forward pass left out; a pre-norm layer's tape ends with the norm's input."""
        structure = self.call.structure
        if structure.pre_norm:
            x, _ = NORM(tape[-2], self.norm_weight, self.norm_bias, structure.epsilon, structure.rms_norm)
        else:
            x = tape.pop()
        self._inner(x, tape)

    def backward(self, grad: Tensor, grad_skip: Tensor | None, tape: Tape) -> tuple[Tensor, Gradients]:
        """See `Branch`."""
        gate_weight, up_weight, up_bias, down_weight = self.linears
        if self.call.recompute_mlp:
            self._recompute(tape)
        inner = tape.pop()
        grad_down_weight = linear_weight_grad(grad, inner, down_weight)
        grad_inner = linear_input_grad(grad, down_weight)
        tanh = self.call.structure.tanh_gelu
        gradients: Gradients
        if gate_weight is None:
            up, x = tape.pop(), tape.pop()
            grad_up, grad_up_bias = BIAS_GELU_BACKWARD(grad_inner, up, up_bias, tanh)
            gradients = [None, linear_weight_grad(grad_up, x, up_weight), grad_up_bias, grad_down_weight]
            return linear_input_grad(grad_up, up_weight, grad_skip), gradients
        gate, up, x = tape.pop(), tape.pop(), tape.pop()
        grad_gate, grad_up = GATED_GELU_BACKWARD(grad_inner, gate, up, tanh)
        grad_gate_weight = linear_weight_grad(grad_gate, x, gate_weight)
        gradients = [grad_gate_weight, linear_weight_grad(grad_up, x, up_weight), None, grad_down_weight]
        grad_x = linear_input_grad(grad_up, up_weight, linear_input_grad(grad_gate, gate_weight, grad_skip))
        return grad_x, gradients


BRANCHES: dict[int, type[Branch]] = {
    SELF_ATTENTION: SelfAttentionBranch,
    CROSS_ATTENTION: CrossAttentionBranch,
    MLP_BRANCH: MLPBranch,
}


def make_branches(call: LayerCall, parameters: Parameters) -> list[Branch]:
    """The branches of a layer, given the parameters of all in turn."""
    branches, start = [], 0
    for kind in call.structure.branches:
        end = start + BRANCHES[kind].num_parameters
        branches.append(BRANCHES[kind](call, parameters[start:end]))
        start = end
    return branches
