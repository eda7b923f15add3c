"""One transformer layer as one autograd function, composed of raw operators and matrix products.

A deep and narrow network spends most of its time on dispatch: a layer of modules runs about thirty operators
with an autograd node each. This function has one node, and keeps for the backward pass only what the raw
operators need. Dropout masks are functions of (seed, layer, place, element), so that a recomputed layer drops
the same elements.

Shapes: T tokens (of all sequences), H hidden size, N heads, D head size, F inner size of the MLP.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpm_cli.ops.layer_branches import (
    Branch,
    CrossAttentionBranch,
    Gradients,
    LayerCall,
    LayerInputs,
    LayerStructure,
    SelfAttentionBranch,
    Tape,
    make_branches,
)
from fpm_cli.ops.once_differentiable import once_differentiable
from fpm_cli.ops.schemas import (
    NORM,
    NORM_BACKWARD,
    RESIDUAL,
    RESIDUAL_BACKWARD,
    RESIDUAL_NORM,
    RESIDUAL_NORM_BACKWARD,
)


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
        x: (B, S, H), or (T, H) packed.
        memory: (B, K, H), what cross-attention attends to; contiguous.
        bias: (1 or B, N, S, S), added to the scores of self-attention; contiguous.
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
        call, tape = LayerCall(structure, inputs, recompute_mlp, memory, bias), Tape()
        forward = _forward_pre_norm if structure.pre_norm else _forward_post_norm
        output = forward(call, make_branches(call, parameters), x.contiguous().view(-1, x.shape[-1]), tape)
        ctx.settings, ctx.num_parameters = (structure, inputs, recompute_mlp), len(parameters)
        ctx.save_for_backward(memory, bias, *parameters, *tape)
        return output.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        memory, bias, *rest = ctx.saved_tensors
        parameters, tape = rest[: ctx.num_parameters], rest[ctx.num_parameters :]
        structure, inputs, recompute_mlp = ctx.settings
        needs_memory_grad, needs_bias_grad = ctx.needs_input_grad[4:6]
        call = LayerCall(structure, inputs, recompute_mlp, memory, bias, needs_memory_grad, needs_bias_grad)
        branches = make_branches(call, parameters)
        backward = _backward_pre_norm if call.structure.pre_norm else _backward_post_norm
        grad_x, gradients = backward(call, branches, grad.contiguous().view(-1, grad.shape[-1]), tape)
        grad_memory = grad_bias = None
        for branch in branches:
            if isinstance(branch, SelfAttentionBranch):
                grad_bias = branch.grad_scores_bias
            elif isinstance(branch, CrossAttentionBranch):
                grad_memory = branch.grad_memory
        named = zip(parameters, gradients, strict=True)
        wanted = [None if parameter is None else gradient for parameter, gradient in named]
        return (None, None, None, grad_x.view(grad.shape), grad_memory, grad_bias, *wanted)


def _forward_post_norm(call: LayerCall, branches: list[Branch], x: Tensor, tape: Tape) -> Tensor:
    """norm(alpha x + dropout(branch(x))) for each branch: (T, H) -> (T, H)."""
    for branch in branches:
        y = branch.forward(x, tape)
        total, x, stats = _residual_norm(call, branch, x, y, branch)
        tape += (total, stats)
    return x


def _backward_post_norm(
    call: LayerCall, branches: list[Branch], grad: Tensor, tape: Tape
) -> tuple[Tensor, Gradients]:
    """Gradient of the output (T, H) -> those of x and of the parameters."""
    gradients: Gradients = []
    for branch in reversed(branches):
        stats, total = tape.pop(), tape.pop()
        grad, grad_y, grad_output_bias, *norm_grads = _residual_norm_backward(
            call, branch, None, grad, total, stats, branch
        )
        grad, linear_grads = branch.backward(grad_y, grad, tape)
        gradients = [*norm_grads, *linear_grads, grad_output_bias, *gradients]
    return grad, gradients


def _forward_pre_norm(call: LayerCall, branches: list[Branch], x: Tensor, tape: Tape) -> Tensor:
    """x + dropout(branch(norm(x))) for each branch, a sum fused with the next norm: (T, H) -> (T, H)."""
    structure, branch = call.structure, branches[0]
    normed, stats = NORM(x, branch.norm_weight, branch.norm_bias, structure.epsilon, structure.rms_norm)
    for branch, following in zip(branches, [*branches[1:], None], strict=True):
        tape += (x, stats)
        y = branch.forward(normed, tape)
        if following is not None:
            x, normed, stats = _residual_norm(call, branch, x, y, following)
    output: Tensor = RESIDUAL(x, y, branch.output_bias, *call.dropout(branch.residual_stream))
    return output


def _backward_pre_norm(
    call: LayerCall, branches: list[Branch], grad: Tensor, tape: Tape
) -> tuple[Tensor, Gradients]:
    """Gradient of the output (T, H) -> those of x and of the parameters."""
    grad_y, grad_output_bias = _residual_backward(call, branches[-1], grad)
    gradients: Gradients = []
    for branch, previous in zip(reversed(branches), [*reversed(branches[:-1]), None], strict=True):
        grad_normed, linear_grads = branch.backward(grad_y, None, tape)
        linear_grads.append(grad_output_bias)
        stats, x = tape.pop(), tape.pop()
        if previous is not None:
            grad, grad_y, grad_output_bias, *norm_grads = _residual_norm_backward(
                call, previous, grad, grad_normed, x, stats, branch
            )
        else:
            has_norm_bias = branch.norm_bias is not None
            grad, *norm_grads = NORM_BACKWARD(
                grad, grad_normed, x, stats, branch.norm_weight, call.structure.rms_norm, has_norm_bias
            )
        gradients = [*norm_grads, *linear_grads, *gradients]
    return grad, gradients


def _residual_norm(
    call: LayerCall, branch: Branch, x: Tensor, y: Tensor, norm: Branch
) -> tuple[Tensor, Tensor, Tensor]:
    """alpha x + dropout(y + bias) after a branch, its norm with the weight of `norm`, and row statistics."""
    structure = call.structure
    dropout = call.dropout(branch.residual_stream)
    parameters = branch.output_bias, norm.norm_weight, norm.norm_bias
    return RESIDUAL_NORM(  # type: ignore[no-any-return]
        x, y, *parameters, structure.alpha, *dropout, structure.epsilon, structure.rms_norm
    )


def _residual_norm_backward(
    call: LayerCall,
    branch: Branch,
    grad_total: Tensor | None,
    grad_normed: Tensor,
    total: Tensor,
    stats: Tensor,
    norm: Branch,
) -> tuple[Tensor, ...]:
    """Gradients of x, y, the branch's output bias, norm weight and norm bias."""
    structure = call.structure
    settings = structure.alpha, *call.dropout(branch.residual_stream), structure.rms_norm
    has_biases = branch.output_bias is not None, norm.norm_bias is not None
    return RESIDUAL_NORM_BACKWARD(  # type: ignore[no-any-return]
        grad_total, grad_normed, total, stats, norm.norm_weight, *settings, *has_biases
    )


def _residual_backward(call: LayerCall, branch: Branch, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of y and of the branch's output bias."""
    has_bias = branch.output_bias is not None
    if not (has_bias or call.inputs.dropout):
        return grad, None
    dropout = call.dropout(branch.residual_stream)
    return RESIDUAL_BACKWARD(grad, *dropout, has_bias)  # type: ignore[no-any-return]
