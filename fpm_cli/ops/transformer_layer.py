"""One transformer layer as one autograd function, composed of raw operators and matrix products.

A deep and narrow network spends most of its time on dispatch: a layer of modules runs about thirty operators
with an autograd node each. This function has one node, and keeps for the backward pass only what the raw
operators need. Dropout masks are functions of (seed, layer, place, element), so that a recomputed layer drops
the same elements.

Shapes: T tokens (of all sequences), H hidden size, N heads, D head size, F inner size of the MLP. Inside the
layer every matrix has T rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fpm_cli.ops.linear import linear, linear_input_grad, linear_weight_grad
from fpm_cli.ops.schemas import (
    ATTENTION,
    ATTENTION_BACKWARD,
    BIAS_GELU,
    BIAS_GELU_BACKWARD,
    GATED_GELU,
    GATED_GELU_BACKWARD,
    NORM,
    NORM_BACKWARD,
    RESIDUAL,
    RESIDUAL_BACKWARD,
    RESIDUAL_NORM,
    RESIDUAL_NORM_BACKWARD,
)

# Streams of random numbers within a layer, see kernels/common/philox.h.
STREAMS_PER_LAYER = 8
SELF_ATTENTION, CROSS_ATTENTION, MLP_BRANCH = (
    1,
    3,
    5,
)  # the residual after an attention has the stream after it

NUM_PARAMETERS = {SELF_ATTENTION: 6, CROSS_ATTENTION: 8, MLP_BRANCH: 7}

Gradients = list[Tensor | None]
Parameters = Sequence[Any]  # tensors, None where the family has none


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


def transformer_layer(
    structure: LayerStructure,
    inputs: LayerInputs,
    x: Tensor,
    memory: Tensor | None,
    bias: Tensor | None,
    parameters: Sequence[Tensor | None],
    *,
    recompute_mlp: bool = False,
) -> Tensor:
    """Run one layer.

    Args:
        structure, inputs: see there.
        x: (B, S, H), or (T, H) packed; contiguous.
        memory: (B, K, H), what cross-attention attends to.
        bias: (1 or B, N, S, S), added to the scores of self-attention.
        parameters: of each branch in turn, None for a bias or gate that the family does not have:
            norm weight and bias, then
            self-attention: query-key-value weight (3ND, H) and bias, output weight (H, ND) and bias;
            cross-attention: query weight and bias, key-value weight (2ND, H) and bias, output as above;
            MLP: gate weight (F, H), up weight (F, H) and bias, down weight (H, F) and bias.
        recompute_mlp: keep nothing of the MLP's inside for the backward pass, and compute it again there.

    Returns:
        A tensor of x's shape.
    """
    output: Tensor = _TransformerLayer.apply(structure, inputs, recompute_mlp, x, memory, bias, *parameters)
    return output


class _TransformerLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        structure: LayerStructure,
        inputs: LayerInputs,
        recompute_mlp: bool,
        x: Tensor,
        memory: Tensor | None,
        bias: Tensor | None,
        *parameters: Tensor | None,
    ) -> Tensor:
        call = _Layer(structure, inputs, recompute_mlp, memory, bias, parameters, [])
        output = call.forward(x.view(-1, x.shape[-1])).view(x.shape)
        ctx.call, ctx.num_parameters = (structure, inputs, recompute_mlp), len(parameters)
        ctx.save_for_backward(memory, bias, *parameters, *call.tape)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        memory, bias, *rest = ctx.saved_tensors
        parameters, tape = rest[: ctx.num_parameters], rest[ctx.num_parameters :]
        grad = grads[0].contiguous()
        structure, inputs, recompute_mlp = ctx.call
        call = _Layer(structure, inputs, recompute_mlp, memory, bias, parameters, tape)
        call.needs_memory_grad, call.needs_bias_grad = ctx.needs_input_grad[4:6]
        grad_x = call.backward(grad.view(-1, grad.shape[-1])).view(grad.shape)
        return (None, None, None, grad_x, call.grad_memory, call.grad_bias, *call.gradients)


class _Layer:
    """One call of a layer. The forward pass appends to `tape` what the backward pass pops from its end."""

    def __init__(
        self,
        structure: LayerStructure,
        inputs: LayerInputs,
        recompute_mlp: bool,
        memory: Tensor | None,
        bias: Tensor | None,
        parameters: Parameters,
        tape: list[Tensor],
    ):
        self.structure, self.inputs, self.memory, self.bias = structure, inputs, memory, bias
        self.recompute_mlp, self.tape = recompute_mlp, tape
        self.parameters: list[Parameters] = []  # of each branch
        start = 0
        for branch in structure.branches:
            end = start + NUM_PARAMETERS[branch]
            self.parameters.append(parameters[start:end])
            start = end
        self.gradients: Gradients = []
        self.needs_memory_grad = self.needs_bias_grad = False
        self.grad_memory: Tensor | None = None
        self.grad_bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (T, H) -> (T, H)."""
        layer, tape = self.structure, self.tape
        if not layer.pre_norm:
            for branch, parameters in zip(layer.branches, self.parameters, strict=True):
                y = self._branch(branch, x, parameters)
                total, x, stats = self._residual_norm(branch, x, y, parameters, parameters)
                tape += (total, stats)
            return x
        first = self.parameters[0]
        normed, stats = NORM(x, first[0], first[1], layer.epsilon, layer.rms_norm)
        for number, (branch, parameters) in enumerate(zip(layer.branches, self.parameters, strict=True)):
            tape += (x, stats)
            y = self._branch(branch, normed, parameters)
            if number + 1 < len(layer.branches):
                x, normed, stats = self._residual_norm(branch, x, y, parameters, self.parameters[number + 1])
        drop = self._dropout(branch)
        output: Tensor = RESIDUAL(x, y, parameters[-1], *drop)
        return output

    def backward(self, grad: Tensor) -> Tensor:
        """Gradient of the output (T, H) -> gradient of x (T, H); sets the other gradients."""
        layer, tape = self.structure, self.tape
        gradients: list[Gradients] = []  # of each branch, last branch first
        branches = list(zip(layer.branches, self.parameters, strict=True))
        if not layer.pre_norm:
            for branch, parameters in reversed(branches):
                stats, total = tape.pop(), tape.pop()
                grad, grad_y, *vectors = self._residual_norm_backward(
                    branch, None, grad, total, stats, parameters, parameters
                )
                grad, found = self._branch_backward(branch, grad_y, parameters, grad)
                gradients.append([vectors[1], vectors[2], *found, vectors[0]])
        else:
            branch, parameters = branches[-1]
            grad_y, grad_out_bias = self._residual_backward(branch, grad, parameters)
            for number in reversed(range(len(branches))):
                branch, parameters = branches[number]
                grad_normed, found = self._branch_backward(branch, grad_y, parameters, None)
                stats, x = tape.pop(), tape.pop()
                norm_weight, norm_bias = parameters[:2]
                found.append(grad_out_bias)
                if number > 0:
                    previous, previous_parameters = branches[number - 1]
                    grad, grad_y, grad_out_bias, *norm_grads = self._residual_norm_backward(
                        previous, grad, grad_normed, x, stats, previous_parameters, parameters
                    )
                else:
                    grad, *norm_grads = NORM_BACKWARD(
                        grad, grad_normed, x, stats, norm_weight, layer.rms_norm, norm_bias is not None
                    )
                gradients.append([*norm_grads, *found])
        for each, parameters in zip(reversed(gradients), self.parameters, strict=True):
            self.gradients += [
                None if parameter is None else gradient
                for gradient, parameter in zip(each, parameters, strict=True)
            ]
        return grad

    def _dropout(self, branch: int) -> tuple[float, int, int]:
        """Probability, seed and stream of the dropout after a branch."""
        stream = self.structure.first_stream + branch + (branch != MLP_BRANCH)
        return self.inputs.dropout, self.inputs.seed, stream

    def _residual_norm(
        self, branch: int, x: Tensor, y: Tensor, parameters: Parameters, norm: Parameters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """alpha x + dropout(y + bias), its norm, and the statistics of each row."""
        layer = self.structure
        drop = self._dropout(branch)
        return RESIDUAL_NORM(  # type: ignore[no-any-return]
            x, y, parameters[-1], norm[0], norm[1], layer.alpha, *drop, layer.epsilon, layer.rms_norm
        )

    def _residual_norm_backward(
        self,
        branch: int,
        grad_total: Tensor | None,
        grad_normed: Tensor,
        total: Tensor,
        stats: Tensor,
        parameters: Parameters,
        norm: Parameters,
    ) -> tuple[Tensor, ...]:
        """Gradients of x, y, bias, norm weight and norm bias."""
        layer = self.structure
        has_bias, has_norm_bias = parameters[-1] is not None, norm[1] is not None
        drop = self._dropout(branch)
        return RESIDUAL_NORM_BACKWARD(  # type: ignore[no-any-return]
            grad_total,
            grad_normed,
            total,
            stats,
            norm[0],
            layer.alpha,
            *drop,
            layer.rms_norm,
            has_bias,
            has_norm_bias,
        )

    def _residual_backward(self, branch: int, grad: Tensor, parameters: Parameters) -> tuple[Tensor, Any]:
        """Gradients of y and of its bias."""
        has_bias = parameters[-1] is not None
        if not (has_bias or self.inputs.dropout):
            return grad, None
        return RESIDUAL_BACKWARD(grad, *self._dropout(branch), has_bias)  # type: ignore[no-any-return]

    def _branch(self, branch: int, x: Tensor, parameters: Parameters) -> Tensor:
        if branch == SELF_ATTENTION:
            return self._self_attention(x, parameters)
        if branch == CROSS_ATTENTION:
            return self._cross_attention(x, parameters)
        return self._mlp(x, parameters)

    def _branch_backward(
        self, branch: int, grad: Tensor, parameters: Parameters, grad_skip: Tensor | None
    ) -> tuple[Tensor, Gradients]:
        """Gradient of the input, added to `grad_skip`, and of the linear layers less the output's bias."""
        if branch == SELF_ATTENTION:
            return self._self_attention_backward(grad, parameters, grad_skip)
        if branch == CROSS_ATTENTION:
            return self._cross_attention_backward(grad, parameters, grad_skip)
        return self._mlp_backward(grad, parameters, grad_skip)

    def _self_attention(self, x: Tensor, parameters: Parameters) -> Tensor:
        _, _, weight, qkv_bias, out_weight, _ = parameters
        projected = linear(x, weight, qkv_bias)
        mixed, log_sum_exp = ATTENTION(*self._split(projected, 3), *self._self_attention_arguments())
        flat = mixed.view(x.shape[0], -1)
        self.tape += (x, projected, flat, log_sum_exp)
        return linear(flat, out_weight, None)

    def _self_attention_backward(
        self, grad: Tensor, parameters: Parameters, grad_skip: Tensor | None
    ) -> tuple[Tensor, Gradients]:
        _, _, weight, qkv_bias, out_weight, _ = parameters
        log_sum_exp, flat, projected, x = (self.tape.pop() for _ in range(4))
        grad_out_weight = linear_weight_grad(grad, flat, out_weight)
        grad_flat = linear_input_grad(grad, out_weight, None)
        grad_projected = torch.empty_like(projected)
        query, key, value = self._split(projected, 3)
        if self.needs_bias_grad and self.bias is not None:
            self.grad_bias = torch.zeros_like(self.bias, memory_format=torch.contiguous_format)
        arguments = self._self_attention_arguments()
        ATTENTION_BACKWARD(
            grad_flat.view(query.shape),
            query,
            key,
            value,
            *arguments[:4],
            flat.view(query.shape),
            log_sum_exp,
            *arguments[4:],
            *self._split(grad_projected, 3),
            self.grad_bias,
        )
        grad_qkv_bias = None if qkv_bias is None else grad_projected.sum(0)
        found = [linear_weight_grad(grad_projected, x, weight), grad_qkv_bias, grad_out_weight]
        return linear_input_grad(grad_projected, weight, grad_skip), found

    def _self_attention_arguments(self) -> tuple[Any, ...]:
        """Of `attention` after query, key and value; the first four are tensors."""
        inputs, layer = self.inputs, self.structure
        stream = layer.first_stream + SELF_ATTENTION
        return (
            self.bias,
            inputs.key_mask,
            inputs.documents,
            inputs.cu_seqlens,
            inputs.causal,
            layer.softmax_scale,
            inputs.dropout,
            inputs.seed,
            stream,
        )

    def _cross_attention(self, x: Tensor, parameters: Parameters) -> Tensor:
        _, _, query_weight, query_bias, weight, kv_bias, out_weight, _ = parameters
        assert self.memory is not None
        projected = linear(x, query_weight, query_bias)
        read = linear(self.memory.view(-1, self.memory.shape[-1]), weight, kv_bias)
        mixed, log_sum_exp = ATTENTION(
            *self._split(projected, 1), *self._split_memory(read), *self._cross_attention_arguments()
        )
        flat = mixed.view(x.shape[0], -1)
        self.tape += (x, projected, read, flat, log_sum_exp)
        return linear(flat, out_weight, None)

    def _cross_attention_backward(
        self, grad: Tensor, parameters: Parameters, grad_skip: Tensor | None
    ) -> tuple[Tensor, Gradients]:
        _, _, query_weight, query_bias, weight, kv_bias, out_weight, _ = parameters
        log_sum_exp, flat, read, projected, x = (self.tape.pop() for _ in range(5))
        assert self.memory is not None
        grad_out_weight = linear_weight_grad(grad, flat, out_weight)
        grad_flat = linear_input_grad(grad, out_weight, None)
        grad_projected, grad_read = torch.empty_like(projected), torch.empty_like(read)
        (query,) = self._split(projected, 1)
        arguments = self._cross_attention_arguments()
        ATTENTION_BACKWARD(
            grad_flat.view(query.shape),
            query,
            *self._split_memory(read),
            *arguments[:4],
            flat.view(query.shape),
            log_sum_exp,
            *arguments[4:],
            *self._split(grad_projected, 1),
            *self._split_memory(grad_read),
            None,
        )
        memory = self.memory.view(-1, self.memory.shape[-1])
        if self.needs_memory_grad:
            self.grad_memory = linear_input_grad(grad_read, weight, None).view(self.memory.shape)
        found = [
            linear_weight_grad(grad_projected, x, query_weight),
            None if query_bias is None else grad_projected.sum(0),
            linear_weight_grad(grad_read, memory, weight),
            None if kv_bias is None else grad_read.sum(0),
            grad_out_weight,
        ]
        return linear_input_grad(grad_projected, query_weight, grad_skip), found

    def _cross_attention_arguments(self) -> tuple[Any, ...]:
        inputs, layer = self.inputs, self.structure
        stream = layer.first_stream + CROSS_ATTENTION
        return (
            None,
            inputs.memory_mask,
            None,
            None,
            False,
            layer.softmax_scale,
            inputs.dropout,
            inputs.seed,
            stream,
        )

    def _mlp(self, x: Tensor, parameters: Parameters) -> Tensor:
        down = parameters[5]
        inner = self._mlp_inner(x, parameters, self.tape)
        output = linear(inner, down, None)
        if self.recompute_mlp:
            del self.tape[-self._mlp_tape_length(parameters) :]
            if not self.structure.pre_norm:
                self.tape.append(x)
        return output

    def _mlp_inner(self, x: Tensor, parameters: Parameters, tape: list[Tensor]) -> Tensor:
        """The input of the last linear layer."""
        _, _, gate_weight, up_weight, up_bias, _, _ = parameters
        tanh = self.structure.tanh_gelu
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

    @staticmethod
    def _mlp_tape_length(parameters: Parameters) -> int:
        return 3 if parameters[2] is None else 4

    def _recompute_mlp(self, parameters: Parameters) -> None:
        """Put on the tape what the forward pass left out."""
        layer = self.structure
        if layer.pre_norm:
            x, _ = NORM(self.tape[-2], parameters[0], parameters[1], layer.epsilon, layer.rms_norm)
        else:
            x = self.tape.pop()
        self._mlp_inner(x, parameters, self.tape)

    def _mlp_backward(
        self, grad: Tensor, parameters: Parameters, grad_skip: Tensor | None
    ) -> tuple[Tensor, Gradients]:
        _, _, gate_weight, up_weight, up_bias, down, _ = parameters
        if self.recompute_mlp:
            self._recompute_mlp(parameters)
        inner = self.tape.pop()
        grad_down = linear_weight_grad(grad, inner, down)
        grad_inner = linear_input_grad(grad, down, None)
        tanh = self.structure.tanh_gelu
        if gate_weight is None:
            up, x = self.tape.pop(), self.tape.pop()
            grad_up, grad_up_bias = BIAS_GELU_BACKWARD(grad_inner, up, up_bias, tanh)
            found: Gradients = [None, linear_weight_grad(grad_up, x, up_weight), grad_up_bias, grad_down]
            return linear_input_grad(grad_up, up_weight, grad_skip), found
        gate, up, x = self.tape.pop(), self.tape.pop(), self.tape.pop()
        grad_gate, grad_up = GATED_GELU_BACKWARD(grad_inner, gate, up, tanh)
        found = [
            linear_weight_grad(grad_gate, x, gate_weight),
            linear_weight_grad(grad_up, x, up_weight),
            None,
            grad_down,
        ]
        grad_x = linear_input_grad(grad_up, up_weight, linear_input_grad(grad_gate, gate_weight, grad_skip))
        return grad_x, found

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(T, parts * N * D) -> views (B, S, N, D), or (T, N, D) packed, one for each part."""
        shape = self.inputs.shape
        return projected.view(*shape, parts, self.structure.num_heads, -1).unbind(len(shape))

    def _split_memory(self, read: Tensor) -> tuple[Tensor, ...]:
        """(B * K, 2 * N * D) -> key and value (B, K, N, D)."""
        assert self.memory is not None
        return read.view(*self.memory.shape[:2], 2, self.structure.num_heads, -1).unbind(2)
